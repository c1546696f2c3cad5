//! Metrics of the daemon, beside those that training left in the home.

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::status::Facts;
use crate::phase::metrics::Kind;
use crate::phase::metrics::Metric;
use crate::phase::overview::NightOutcome;

const UP: &str = "nightschool_daemon_up";
const STARTED: &str = "nightschool_daemon_start_timestamp_seconds";
const PAUSED: &str = "nightschool_daemon_paused";
const AT_WORK: &str = "nightschool_daemon_night_under_way";
const NEXT: &str = "nightschool_daemon_next_start_timestamp_seconds";
const FINISHED: &str = "nightschool_daemon_last_night_finished_timestamp_seconds";
const PROMOTED: &str = "nightschool_daemon_last_night_promoted";
const F1: &str = "nightschool_daemon_last_night_f1";
const FAILED: &str = "nightschool_daemon_last_attempt_failed";
const OPEN: &str = "nightschool_daemon_archive_readable";
const TASKS: &str = "nightschool_daemon_tasks";
const FREE: &str = "nightschool_daemon_free_bytes";
const ARCHIVE: &str = "nightschool_daemon_archive_bytes";

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, measure: None, help }
}

/// Every metric of the daemon.
pub const METRICS: [Metric; 13] = [
    gauge(UP, "1 as long as the daemon's loop goes round"),
    gauge(STARTED, "When the daemon began"),
    gauge(PAUSED, "1 when it was told to let nothing begin"),
    gauge(AT_WORK, "1 while a process of the daemon does a night's work"),
    gauge(NEXT, "When the next night of a schedule begins"),
    gauge(FINISHED, "When the last night ended"),
    gauge(PROMOTED, "1 when the candidate of the last night went live"),
    gauge(F1, "Held-out F1 of the candidate of the last night"),
    gauge(FAILED, "1 when the last attempt at a night failed"),
    gauge(OPEN, "1 when the archive can be read"),
    gauge(TASKS, "Tasks in the archive"),
    gauge(FREE, "Bytes free where the home is"),
    gauge(ARCHIVE, "Bytes of the archive and its log"),
];

fn seconds(time: Timestamp) -> f64 {
    time.as_second() as f64
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The home's metrics and the daemon's as one text. No family stands in both: those of training
/// have other names.
pub(super) fn render(facts: &Facts, lives: bool) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        for metric in METRICS {
            metrics::describe_gauge!(metric.name, metric.help);
        }
        set(facts, lives);
    });
    let trained = facts.moment.trained.trim_end();
    let gap = if trained.is_empty() { "" } else { "\n\n" };
    format!("{trained}{gap}{}", handle.render())
}

fn set(facts: &Facts, lives: bool) {
    let daemon = &facts.seen.status;
    metrics::gauge!(UP).set(yes(lives));
    metrics::gauge!(STARTED).set(seconds(daemon.since));
    metrics::gauge!(PAUSED).set(yes(daemon.paused));
    let at_work = daemon.at_work.as_ref().is_some_and(|work| work.pid.is_some());
    metrics::gauge!(AT_WORK).set(yes(at_work));
    for schedule in &daemon.schedules {
        if let Some(next) = schedule.next {
            metrics::gauge!(NEXT, "schedule" => schedule.name.clone()).set(seconds(next));
        }
    }
    metrics::gauge!(FAILED).set(yes(facts
        .moment
        .progress
        .as_ref()
        .is_some_and(|report| !report.is_at_work())));
    metrics::gauge!(OPEN).set(yes(facts.moment.closed.is_none() && facts.overview().is_some()));
    if let Some(overview) = facts.overview() {
        metrics::gauge!(TASKS).set(overview.tasks as f64);
        if let (Some(last), _) = NightOutcome::latest(&overview.nights) {
            set_last(last);
        }
    }
    if let Some(disk) = &facts.past.disk {
        metrics::gauge!(FREE).set(disk.free_bytes as f64);
        metrics::gauge!(ARCHIVE).set(disk.archive_bytes as f64);
    }
}

fn set_last(night: &NightOutcome) {
    if let Some(finished) = night.finished_at {
        metrics::gauge!(FINISHED).set(seconds(finished));
    }
    metrics::gauge!(PROMOTED).set(yes(night.promoted == Some(true)));
    if let Some(heldout) = &night.heldout {
        metrics::gauge!(F1).set(heldout.after.f1);
    }
}
