//! Any bytes as the hub's list of the files of a model.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mlx_backend::fuzzing::hub_listing(bytes));
