//! Devices other than the CPU.

use candle_core::Device;

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
