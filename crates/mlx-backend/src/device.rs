//! What MLX runs on.

use mlx_rs::{Device, DeviceType, Dtype, memory};
use serde::Serialize;

use crate::{Result, engine, ffi};

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
    /// Bytes of its own memory (CUDA), or that it recommends to use at most (Metal); absent on a CPU.
    pub device_bytes: Option<u64>,
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
            device_bytes: match Backend::current() {
                Backend::Cpu => None,
                Backend::Metal => ffi::device_bytes(c"max_recommended_working_set_size"),
                Backend::Cuda => ffi::device_bytes(c"total_memory"),
            },
        })
    })?
}

/// The part of MLX that computes: what is fused and how far it runs ahead depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Metal,
    Cuda,
}

impl Backend {
    /// Asks MLX; to be called on its thread.
    pub(crate) fn current() -> Self {
        match on_cpu() {
            true => Self::Cpu,
            false if cfg!(target_vendor = "apple") => Self::Metal,
            false => Self::Cuda,
        }
    }

    /// Returns whether attention of many queries, whose heads have `head_dim` values of `dtype`, is
    /// one kernel that never holds the scores.
    ///
    /// Source: MLX 0.32, `use_fallback` in `backend/{metal,cuda}/scaled_dot_product_attention.cpp`.
    /// For Metal only the head sizes that have been fused since 0.25 count.
    pub(crate) fn fuses_attention(self, head_dim: i32, dtype: Dtype) -> bool {
        match self {
            Self::Cpu => false,
            Self::Metal => [64, 80, 128].contains(&head_dim),
            Self::Cuda => dtype != Dtype::Float32 && head_dim % 8 == 0 && head_dim <= 128,
        }
    }

    /// Returns from how many bytes on an activation is computed before more is asked of MLX.
    ///
    /// A device has to wait each time, so there it is worth it for large images only.
    pub(crate) fn settle_bytes(self) -> usize {
        match self {
            Self::Cpu => 1 << 20,
            Self::Metal | Self::Cuda => 64 << 20,
        }
    }
}

/// Returns whether MLX computes on the CPU.
pub(crate) fn on_cpu() -> bool {
    let kind = Device::try_default().and_then(|device| device.get_type());
    kind.is_ok_and(|kind| matches!(kind, DeviceType::Cpu))
}
