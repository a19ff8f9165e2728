//! What MLX runs on.

use mlx_rs::{Device, DeviceType, memory};
use serde::Serialize;

use crate::{Result, engine};

/// The device that MLX computes on, and its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// `gpu` or `cpu`.
    pub kind: &'static str,
    /// Bytes in live arrays.
    pub active_bytes: u64,
    /// Most bytes in live arrays so far.
    pub peak_bytes: u64,
    /// Bytes kept for reuse.
    pub cache_bytes: u64,
    /// Bytes that MLX allows itself.
    pub limit_bytes: u64,
}

/// Asks MLX what it runs on.
///
/// # Errors
/// If MLX cannot be loaded or has no device.
pub fn device_info() -> Result<DeviceInfo> {
    engine::call(|| {
        let fail = |e: mlx_rs::error::Exception| crate::nn::mlx_error("device", &e);
        Ok(DeviceInfo {
            kind: if on_cpu() { "cpu" } else { "gpu" },
            active_bytes: memory::active_memory().map_err(fail)? as u64,
            peak_bytes: memory::peak_memory().map_err(fail)? as u64,
            cache_bytes: memory::cache_memory().map_err(fail)? as u64,
            limit_bytes: memory::memory_limit().map_err(fail)? as u64,
        })
    })?
}

/// Returns whether MLX computes on the CPU.
pub(crate) fn on_cpu() -> bool {
    let kind = Device::try_default().and_then(|device| device.get_type());
    kind.is_ok_and(|kind| matches!(kind, DeviceType::Cpu))
}
