//! Metrics: the document names each of them, and no other.

use std::collections::BTreeSet;

use nightschool::phase::metrics::METRICS;

#[test]
fn the_document_names_every_metric() {
    let document = include_str!("../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let described: Vec<&str> = rows.filter_map(|row| row.split_once('`')).map(|(n, _)| n).collect();
    let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<&str>>();
    assert_eq!(set(&described), set(&names));
    assert_eq!((described.len(), names.len()), (set(&names).len(), set(&names).len()));
    assert!(METRICS.iter().all(|metric| !metric.help.is_empty()));
    for reason in ["cut_off", "prompts_differ", "no_variance", "below_min_reward", "below_margin"] {
        assert!(document.contains(&format!("`{reason}`")), "{reason}");
    }
}
