//! Any bytes as a GGUF file: an error, or a model whose tensors are what its table promised.
#![no_main]

use std::{path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| fuzz::scratch("model.gguf"));

fuzz_target!(|bytes: &[u8]| {
    // Of the crate of tokenizers.
    fuzz::with_caught_panics(|| mlx_backend::fuzzing::gguf(bytes, &SCRATCH));
});
