//! Any bytes as a safetensors file: what is accepted is what the crate of the format accepts.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mlx_backend::fuzzing::safetensors(bytes));
