//! Any JSON Schema as the form of an answer: an error, or a grammar of which every end is JSON.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llm_core::{OutputFormat, Request};
use mlx_backend::fuzzing::Forms;
use serde::de::IgnoredAny;
use serde_json::Value;

thread_local! {
    static FORMS: Forms = {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Forms::new(&root.join("testdata/golden/tiny_fp32"), "<|im_end|>")
    };
}

// What follows the schema chooses the tokens.
fuzz_target!(|bytes: &[u8]| {
    // llguidance catches its own, which are errors.
    fuzz::with_caught_panics(|| answer(bytes));
});

fn answer(bytes: &[u8]) {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let Some(Ok(schema)) = values.next() else { return };
    let choices = &bytes[values.byte_offset()..];
    let choices = if choices.is_empty() { &bytes[..bytes.len().min(64)] } else { choices };
    let mut request = Request::text("x");
    request.output = OutputFormat::json_schema("form", schema);
    if request.output.validate().is_err() {
        return;
    }
    if let Some(text) = FORMS.with(|forms| forms.answer(&request, 64, choices)) {
        // Numbers of any size are JSON.
        let read: Result<IgnoredAny, _> = serde_json::from_str(&text);
        assert!(read.is_ok(), "{text:?}");
    }
}
