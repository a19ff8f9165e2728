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

    /// Returns whether one large product is quicker than several small ones with the same input: a
    /// device is given work one operation at a time, which takes longer than a small operation.
    pub(crate) fn joins_products(self) -> bool {
        self != Self::Cpu
    }

    /// Returns whether the linear layers and the attention of a model that computes in `dtype` are computed
    /// outside of MLX, layers on weights as they are stored.
    pub(crate) fn on_host(self, dtype: Dtype) -> bool {
        self == Self::Cpu && dtype == Dtype::Float32
    }

    /// Returns whether compiled functions pay. MLX fuses their operations into a kernel of its own;
    /// on CPUs it would run a C++ compiler for that.
    pub(crate) fn compiles(self) -> bool {
        self != Self::Cpu
    }

    /// Returns the largest inner activation of an MLP, in bytes; larger ones are done in pieces. On
    /// CUDA small products leave most of the device idle.
    pub(crate) fn max_inner_bytes(self) -> usize {
        match self {
            Self::Cuda => 256 << 20,
            Self::Cpu | Self::Metal => 32 << 20,
        }
    }

    /// Returns a number that the widths of dense products should be a multiple of. cuBLAS has its
    /// best kernels for rows that begin at multiples of 16 bytes.
    pub(crate) fn width_multiple(self) -> i32 {
        match self {
            Self::Cuda => 8,
            Self::Cpu | Self::Metal => 1,
        }
    }

    /// Returns from how many rows on a product with packed weights is quicker if they are unpacked
    /// first, for this product alone. `None` where MLX's packed kernels are good.
    ///
    /// Measured on an H100 with weights of 37888 x 3584 in 4 bits: 4.9 ms packed, 1.2 ms unpacked, at
    /// 2718 rows; and the packed kernel takes a minute to compile, once for each machine.
    pub(crate) fn unpacks_from_rows(self) -> Option<usize> {
        match self {
            Self::Cpu | Self::Cuda => Some(8),
            Self::Metal => None,
        }
    }

    /// As [`unpacks_from_rows`](Self::unpacks_from_rows), for weights of `input` columns in groups of
    /// `group_size`. With a single group in a row of 64, the packed kernel of MLX 0.32.2 for CUDA gives
    /// wrong products of two rows and more (seen with 64 and 128 outputs, float32, 4 bits; right with
    /// two groups).
    pub(crate) fn unpacks_from_rows_of(self, input: i32, group_size: i32) -> Option<usize> {
        match self {
            Self::Cuda if input == group_size => Some(2),
            _ => self.unpacks_from_rows(),
        }
    }

    /// As [`settle_bytes`](Self::settle_bytes), for the hidden states between layers of a decoder.
    ///
    /// On CUDA the host is far ahead of the device in a prompt, and what all layers make on the way,
    /// unpacked weights above all, would be alive at once. A step of one token is never waited for.
    pub(crate) fn decoder_settle_bytes(self) -> usize {
        match self {
            Self::Cuda => 256 << 10,
            Self::Cpu | Self::Metal => self.settle_bytes(),
        }
    }

    /// Returns after how many layers of a decoder hidden states are looked at: on CUDA every other
    /// one, which keeps the device busy while the host waits.
    pub(crate) fn decoder_settle_layers(self) -> usize {
        if self == Self::Cuda { 2 } else { 1 }
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
