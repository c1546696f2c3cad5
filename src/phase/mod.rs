//! A night's phases: the only place that wires stages together.
//!
//! Work is cut into units. A unit's results and the note that it is done are one transaction of
//! the archive, its random draws depend only on the seed and its name, and its id is the same
//! after a restart. So a night that is cut off anywhere goes on where it was, to the same end.

pub mod asked;
pub mod backup;
mod balance;
mod budget;
pub mod curate;
pub mod disk;
pub mod evaluate;
pub mod examples;
pub mod experiment;
mod gate;
pub mod gate_bench;
mod guards;
pub mod health;
pub mod home;
pub mod import;
pub mod ingest;
pub mod known;
pub mod metrics;
pub mod mixture;
pub mod night;
pub mod notify;
pub mod open_model;
pub mod overview;
pub mod page;
mod pick;
pub mod play;
pub(crate) mod plots;
mod policy;
pub mod propose;
mod remote;
pub mod report;
pub mod retention;
mod reverify;
mod rounds;
pub mod selection;
mod start;
mod statistics;
pub mod suite;
pub mod train;
mod train_proposer;
pub mod usage;
pub mod warm_start;
