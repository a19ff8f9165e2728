//! The one place that calls C directly.

#![allow(unsafe_code, reason = "declaring a function of the C library")]

use std::ffi::c_int;

// SAFETY: this is the declaration of ISO C, and a call of it has no precondition.
unsafe extern "C" {
    safe fn atexit(function: extern "C" fn()) -> c_int;
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
