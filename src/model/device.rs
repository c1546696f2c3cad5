//! Which device computes.

use candle_core::Device;

use crate::config::DeviceName;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without it.
    #[error("this program was built without CUDA: build it with `--features cuda`, or use the CPU")]
    NotBuilt,
    /// The system offers none.
    #[error("no CUDA device: {0}; check `nvidia-smi`, or use the CPU")]
    Missing(candle_core::Error),
}

/// The first CUDA device.
///
/// # Errors
/// When the program was built without CUDA, or there is no device or no driver for it.
pub fn cuda() -> Result<Device, DeviceError> {
    if !candle_core::utils::cuda_is_available() {
        return Err(DeviceError::NotBuilt);
    }
    Device::new_cuda(0).map_err(DeviceError::Missing)
}

/// A device, and how it came to be chosen.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// For a person: what was chosen and why.
    pub why: String,
}

/// The device that a setting names.
///
/// # Errors
/// When it asks for a CUDA device that there is not. `auto` falls back on the CPU, and says so.
pub fn choose(wanted: DeviceName) -> Result<Chosen, DeviceError> {
    let cpu = |why: String| Chosen { device: Device::Cpu, why };
    match wanted {
        DeviceName::Cpu => Ok(cpu("the CPU, as set".into())),
        DeviceName::Cuda => Ok(Chosen { device: cuda()?, why: "CUDA device 0, as set".into() }),
        DeviceName::Auto => Ok(match cuda() {
            Ok(device) => Chosen { device, why: "CUDA device 0, which is there".into() },
            Err(error) => cpu(format!("the CPU, because there is no other: {error}")),
        }),
    }
}
