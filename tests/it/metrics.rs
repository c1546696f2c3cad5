//! Metrics: the document names each of them, and no other.

use std::collections::BTreeSet;

use nightschool::http::metrics::METRICS as OF_THE_DAEMON;
use nightschool::phase::metrics::METRICS;
use nightschool::phase::metrics::Metric;

#[test]
fn the_document_names_every_metric() {
    let document = include_str!("../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let described: Vec<&str> = rows.filter_map(|row| row.split_once('`')).map(|(n, _)| n).collect();
    let all: Vec<Metric> = METRICS.into_iter().chain(OF_THE_DAEMON).collect();
    let names: Vec<&str> = all.iter().map(|metric| metric.name).collect();
    let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<&str>>();
    assert_eq!(set(&described), set(&names));
    assert_eq!((described.len(), names.len()), (set(&names).len(), set(&names).len()));
    assert!(all.iter().all(|metric| !metric.help.is_empty()));
    for reason in ["cut_off", "prompts_differ", "no_variance", "below_min_reward", "below_margin"] {
        assert!(document.contains(&format!("`{reason}`")), "{reason}");
    }
}
