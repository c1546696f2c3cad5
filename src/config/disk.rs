//! How much of the disk is left free.

use serde::Deserialize;
use serde::Serialize;

use super::ConfigError;
use super::check;

/// How much of the disk is left free.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Gigabytes that stay free where the home lies.
    pub floor_gb: f64,
}

impl Disk {
    /// The same in bytes.
    pub fn floor_bytes(&self) -> u64 {
        (self.floor_gb * 1e9) as u64
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check::within("disk.floor_gb", self.floor_gb, 0.0, 1e6)
    }
}
