//! The one place that meets C directly.

#![allow(unsafe_code, reason = "functions of C are declared and defined here")]

mod attend;
mod attend_rows;
#[cfg(target_os = "linux")]
mod cuda_compile;
mod cuda_device;
mod cuda_kernel;
mod exp;
mod host;
mod matvec;
mod packed;
#[cfg(target_os = "linux")]
mod sgemm;
mod slices;
mod strided;

use std::ffi::{CStr, c_int};

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
};
use mlx_sys::mlx_array;

pub(crate) use self::{
    attend::HostAttend,
    attend_rows::host_attention,
    cuda_device::{CudaDevice, cuda_device},
    cuda_kernel::{CudaKernel, CudaSource},
    host::{After, HostLinear, HostWeight, host_linear},
    packed::{dequantize, gather_qmm, quantize, quantized_matmul, quantized_product},
    slices::{slice, slice_update},
};
use crate::{Error, Result};

// SAFETY: this is the declaration of ISO C, and a call of it has no precondition.
unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> c_int;
}

/// Opens the library of MLX, so that a missing one is an error and not the end of the process, and
/// gives it a fast matrix product for CPUs.
///
/// # Errors
/// [`Error::Dead`], with where it was looked for.
pub(crate) fn load_library() -> Result<()> {
    // Elsewhere MLX is linked into the program, with a product of the system.
    #[cfg(target_os = "linux")]
    {
        static REPLACE: std::sync::Once = std::sync::Once::new();
        mlx_sys::linux::load().map_err(|e| Error::Dead(e.to_string()))?;
        REPLACE.call_once(sgemm::replace);
    }
    Ok(())
}

/// Has `function` called when the process exits, before what was registered earlier.
///
/// MLX registers the end of its allocator and its threads when it starts. What is registered after
/// that runs first, while MLX can still be used.
pub(crate) fn before_exit(function: extern "C" fn()) {
    if atexit(function) != 0 {
        tracing::warn!(
            "cannot register the end of the MLX thread; exiting while it works may crash"
        );
    }
}

/// Returns what MLX knows about its device under `key`, a number of bytes.
pub(crate) fn device_bytes(key: &CStr) -> Option<u64> {
    load_library().ok()?;
    let mut bytes = 0;
    // SAFETY: both objects are made and freed here, and the results are written to places of the
    // types that the functions document; `key` is a C string. MLX is open.
    let found = unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let mut info = mlx_sys::mlx_device_info_new();
        let mut has_key = false;
        let found = mlx_sys::mlx_get_default_device(&raw mut device) == 0
            && mlx_sys::mlx_device_info_get(&raw mut info, device) == 0
            // Asked first, since a key that is not there is an error, which MLX prints.
            && mlx_sys::mlx_device_info_has_key(&raw mut has_key, info, key.as_ptr()) == 0
            && has_key
            && mlx_sys::mlx_device_info_get_size(&raw mut bytes, info, key.as_ptr()) == 0;
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        found
    };
    found.then_some(bytes as u64)
}

/// Returns the array that `make` puts into its argument.
fn array(what: &str, make: impl FnOnce(*mut mlx_array) -> i32) -> MlxResult<Array> {
    // SAFETY: an empty array, which the call fills and whose owner becomes `Array`; dropping it frees
    // it in either case.
    let result = unsafe {
        let mut result = mlx_sys::mlx_array_new();
        let status = make(&raw mut result);
        (status, Array::from_ptr(result))
    };
    match result {
        (0, array) => Ok(array),
        // What MLX said stays with mlx-rs, which gives it out with the next error of its own.
        (status, _) => Err(Exception::custom(format!("{what} failed with status {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a CPU MLX knows no sizes, and neither a missing key nor a text is an error that it prints.
    #[test]
    fn what_the_device_does_not_tell_is_none() {
        assert_eq!(device_bytes(c"no such key"), None);
        assert_eq!(device_bytes(c"device_name"), None);
    }
}
