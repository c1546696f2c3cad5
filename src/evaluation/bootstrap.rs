//! Percentile bootstrap (Efron 1979) of a mean, resampling whole clusters.
//!
//! Questions about one document stand or fall together, so documents are drawn, not questions.

use std::collections::BTreeMap;

use rand::Rng as _;

use crate::rng;

/// Lower and upper bound.
pub type Interval = (f64, f64);

/// The arithmetic mean; 0 for no values.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The 95 % interval of the mean of `values`, where `clusters[i]` names the cluster of value i.
///
/// With fewer than two clusters each value is its own. The same input gives the same interval.
pub fn interval(values: &[f64], clusters: &[&str], resamples: usize, seed: u64) -> Interval {
    percentiles(resampled_means(values, clusters, resamples, seed, "bootstrap"))
}

/// The 95 % interval of the difference of two independent means, the first less the second; as
/// [`interval`] otherwise.
pub fn difference(
    (values, clusters): (&[f64], &[&str]),
    (less, less_clusters): (&[f64], &[&str]),
    resamples: usize,
    seed: u64,
) -> Interval {
    let means = resampled_means(values, clusters, resamples, seed, "bootstrap");
    let less = resampled_means(less, less_clusters, resamples, seed, "bootstrap of the other");
    percentiles(means.into_iter().zip(less).map(|(mean, less)| mean - less).collect())
}

/// The 95 % interval of the mean over runs and values, both drawn again: runs, such as seeds, and
/// clusters of values. `runs[r][i]` is value i of run r, `clusters[i]` its cluster, the same in all
/// runs.
pub fn interval_over_runs(
    runs: &[Vec<f64>],
    clusters: &[&str],
    resamples: usize,
    seed: u64,
) -> Interval {
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (value, cluster) in clusters.iter().enumerate() {
        members.entry(cluster).or_default().push(value);
    }
    // sums[r][c]: of a run over a cluster.
    let sums: Vec<Vec<f64>> = runs
        .iter()
        .map(|run| members.values().map(|of| of.iter().map(|i| run[*i]).sum()).collect())
        .collect();
    let sizes: Vec<usize> = members.values().map(Vec::len).collect();
    if runs.is_empty() || sizes.is_empty() {
        return (0.0, 0.0);
    }
    let mut rng = rng::stream(seed, &["bootstrap over runs"]);
    let resample = |_| {
        let drawn: Vec<usize> = runs.iter().map(|_| rng.random_range(0..runs.len())).collect();
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..sizes.len() {
            let cluster = rng.random_range(0..sizes.len());
            sum += drawn.iter().map(|run| sums[*run][cluster]).sum::<f64>();
            count += sizes[cluster] * drawn.len();
        }
        sum / count as f64
    };
    percentiles((0..resamples.max(1)).map(resample).collect())
}

/// Means of resamples; none for no values.
fn resampled_means(
    values: &[f64],
    clusters: &[&str],
    resamples: usize,
    seed: u64,
    stream: &str,
) -> Vec<f64> {
    let mut sums: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        let entry = sums.entry(cluster).or_default();
        entry.0 += value;
        entry.1 += 1;
    }
    let groups: Vec<(f64, usize)> = match sums.len() {
        0 => return Vec::new(),
        1 => values.iter().map(|value| (*value, 1)).collect(),
        _ => sums.into_values().collect(),
    };
    let mut rng = rng::stream(seed, &[stream]);
    let resample = |_| {
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..groups.len() {
            let (part, n) = groups[rng.random_range(0..groups.len())];
            sum += part;
            count += n;
        }
        sum / count as f64
    };
    (0..resamples.max(1)).map(resample).collect()
}

/// The bounds between which 95 % of the means lie; zeros for none.
fn percentiles(mut means: Vec<f64>) -> Interval {
    if means.is_empty() {
        return (0.0, 0.0);
    }
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
    (at(0.025), at(0.975))
}
