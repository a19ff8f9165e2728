//! Any text as what a model says, in pieces: the same calls, wherever it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlx_backend::fuzzing::said;

fuzz_target!(|input: (u8, &str)| {
    let (size, text) = input;
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.ceil_char_boundary(usize::from(size % 16) + 1);
        pieces.push(&rest[..at]);
        rest = &rest[at..];
    }
    let whole = said([text]);
    assert_eq!(said(pieces), whole);
    if !text.contains("<tool_call>") {
        assert!(whole.iter().all(|(_, call)| call.is_none()));
        let told: String = whole.into_iter().map(|(text, _)| text).collect();
        assert_eq!(told, text);
    }
});
