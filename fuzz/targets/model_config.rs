//! Any JSON as the `config.json` of each family, and as the index of weights.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    mlx_backend::fuzzing::model_config(&value);
    mlx_backend::fuzzing::weight_index(&value);
});
