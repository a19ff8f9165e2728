//! Any text as a `tokenizer.json`: an error, or a tokenizer that makes tokens of a text and text of these.
#![no_main]

use libfuzzer_sys::fuzz_target;

const TEXT: &str = "Hé  llo,\n日本 <|im_end|>don't 123 ▁ <0xE4>\u{7f}🦀";

fuzz_target!(|bytes: &[u8]| {
    // Of the crate of tokenizers.
    fuzz::with_caught_panics(|| mlx_backend::fuzzing::tokenizer(bytes, TEXT));
});
