//! An entry of the disk cache whose file was damaged: it is read as it was written, or not at all.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    values: Vec<u8>,
    edits: Vec<(u16, u8)>,
    length: Option<u16>,
}

fuzz_target!(|input: Input| {
    let values: Vec<f32> = input.values.iter().map(|&value| f32::from(value)).collect();
    mlx_backend::DiskCache::fuzz_entry(&values, &input.edits, input.length);
});
