//! The one place that meets C directly.

#![allow(unsafe_code, reason = "functions of C are declared and defined here")]

#[cfg(target_os = "linux")]
mod sgemm;

use std::ffi::c_int;

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
