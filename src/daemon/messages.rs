//! Telling people how nights ended, beside the daemon's loop: whoever is told may take their time.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use jiff::Timestamp;

use super::plan::Ended;
use super::plan::Plan;
use crate::config::Notify;
use crate::config::Outcome;
use crate::phase::home::Home;
use crate::phase::notify;
use crate::phase::notify::Message;
use crate::schedule::Schedule;

/// Tells of nights by the settings that were accepted last: of refused ones people are told, too.
pub(super) struct Messages {
    by_schedule: BTreeMap<String, Notify>,
    under_way: Vec<JoinHandle<()>>,
}

impl Messages {
    /// Those of no schedule yet.
    pub(super) fn new() -> Self {
        Self { by_schedule: BTreeMap::new(), under_way: Vec::new() }
    }

    /// Follows schedules that were accepted just now.
    pub(super) fn follow(&mut self, home: &Home, schedules: &BTreeMap<String, Schedule>) {
        for (name, schedule) in schedules {
            match super::settings_of(home, name, schedule) {
                Ok(settings) => {
                    self.by_schedule.insert(name.clone(), settings.notify);
                }
                Err(error) => tracing::warn!("who is told of {name} stays as it was: {error:#}"),
            }
        }
    }

    /// Tells how a night of a schedule ended, once the plan knows it.
    pub(super) fn night_ended(
        &mut self,
        home: &Home,
        plan: &Plan,
        schedule: &str,
        how: &Ended,
        at: Timestamp,
    ) {
        self.under_way.retain(|thread| !thread.is_finished());
        let Some(settings) = self.by_schedule.get(schedule).filter(|one| one.is_on()).cloned()
        else {
            return;
        };
        let tried_again = plan.current().is_some();
        let (home, schedule, how) = (home.clone(), schedule.to_string(), how.clone());
        self.under_way.push(std::thread::spawn(move || {
            let of =
                |outcome, why: &str| Message::of_night(&home, Some(&schedule), outcome, why, at);
            let message = match &how {
                Ended::Done => Message::of_finished(&home, Some(&schedule), at),
                Ended::Stopped => of(Outcome::Stopped, ""),
                Ended::Refused(why) => of(Outcome::Refused, why),
                Ended::Failed(why) if tried_again => of(Outcome::Failed, why),
                Ended::Failed(why) => of(Outcome::GivenUp, why),
            };
            notify::tell(&settings, &message);
        }));
    }

    /// Waits until all that is being told was, or could not be.
    pub(super) fn finish(&mut self) {
        for thread in self.under_way.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("telling of a night panicked");
            }
        }
    }
}
