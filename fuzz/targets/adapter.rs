//! Any text as an `adapter_config.json`, and any bytes as the weights beside it, read by MLX.
#![no_main]

use std::{path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use mlx_backend::fuzzing;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| fuzz::scratch("adapters.safetensors"));

// The weights follow a byte of zero.
fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let weights = bytes.get(at + 1..).unwrap_or_default();
    fuzzing::weight_file(weights, &SCRATCH);
    if let Ok(config) = std::str::from_utf8(&bytes[..at]) {
        fuzzing::adapter(config, weights, &SCRATCH);
    }
});
