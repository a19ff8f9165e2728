//! The text of an answer while its tokens come, in whole characters.
//!
//! Tokens of a byte-level tokenizer are bytes, so a character may be spread over several. Their
//! bytes are gathered, and what is complete is yielded; at most three bytes wait for the rest of
//! their character. Nothing is decoded twice.
//!
//! For other tokenizers the text of a token depends on its neighbours (a space that is only
//! written between words, say), so each token is decoded together with the few before it, and
//! what it adds is yielded. Tokens of the form `<0xE4>` are bytes there too; the tokenizer makes
//! text of a run of them only as a whole, so a run is kept until it ends.

use crate::{Error, Result, tokenizer::Tokenizer};

/// Tokens that are decoded again with the next one, for tokenizers whose tokens are not bytes.
const CONTEXT_TOKENS: usize = 4;

/// Makes text of tokens, one at a time; all texts together equal [`Tokenizer::decode`] of all
/// tokens.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    /// Bytes of a character whose end has not come.
    bytes: Vec<u8>,
    /// The last tokens of a tokenizer whose tokens are not bytes.
    ids: Vec<u32>,
    /// How many of `ids` have been yielded.
    yielded: usize,
}

impl TextStream {
    /// Returns a stream at the start of an answer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Takes the next token, and returns the text that is now known, if any.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<Option<String>> {
        let Some(piece) = tokenizer.piece(id) else { return Ok(None) };
        if let Some(bytes) = tokenizer.bytes_of_piece(&piece) {
            self.bytes.extend(bytes);
            return Ok(some(take_characters(&mut self.bytes)));
        }
        self.ids.push(id);
        if is_byte(&piece) { Ok(None) } else { self.decode_pending(tokenizer) }
    }

    /// Ends the answer, and returns the text that was kept back, if any. The stream can be used
    /// for another answer then.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> Result<Option<String>> {
        let text = if self.bytes.is_empty() {
            self.decode_pending(tokenizer)?
        } else {
            some(String::from_utf8_lossy(&self.bytes).into_owned())
        };
        *self = Self::new();
        Ok(text)
    }

    fn decode_pending(&mut self, tokenizer: &Tokenizer) -> Result<Option<String>> {
        if self.yielded == self.ids.len() {
            return Ok(None);
        }
        let before = tokenizer.decode(&self.ids[..self.yielded])?;
        let after = tokenizer.decode(&self.ids)?;
        let Some(text) = after.strip_prefix(&before) else {
            return Err(Error::Tokenizer(format!(
                "the decoder changes text that was already yielded: `{before}` became `{after}`"
            )));
        };
        let text = text.to_owned();
        self.ids.drain(..self.ids.len().saturating_sub(CONTEXT_TOKENS));
        self.yielded = self.ids.len();
        Ok(some(text))
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Whether `piece` is a byte, as tokenizers with byte fallback write one: `<0xE4>`.
fn is_byte(piece: &str) -> bool {
    piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
}

/// Takes all whole characters from the front of `bytes`, with U+FFFD for what can never become
/// one, exactly as [`String::from_utf8_lossy`] would for all bytes at once.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        if chunk.invalid().is_empty() {
            break;
        }
        let is_last = taken + chunk.invalid().len() == bytes.len();
        if is_last && is_unfinished(chunk.invalid()) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += chunk.invalid().len();
    }
    bytes.drain(..taken);
    text
}

/// Whether more bytes could make a character of `bytes`, which are none yet.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::json;

    use super::*;

    fn byte_level() -> Tokenizer {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/tiny_fp32");
        Tokenizer::load(&golden).unwrap()
    }

    /// A tokenizer as `SentencePiece` models have it: words that begin with `▁`, and bytes.
    fn byte_fallback(decoder: serde_json::Value) -> Tokenizer {
        let mut vocab: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        vocab.extend(["▁", "a", "▁b", "é", "▁▁", "日本"].map(str::to_owned));
        let vocab: serde_json::Map<_, _> =
            vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
        let end = json!({"id": 262, "content": "</s>", "single_word": false, "lstrip": false,
                         "rstrip": false, "normalized": false, "special": true});
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [end], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": decoder,
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true}});
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        Tokenizer::load(dir.path()).unwrap()
    }

    fn llama() -> Tokenizer {
        byte_fallback(json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}))
    }

    /// xorshift64*: random enough, and the same in each run.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
    }

    fn assert_equals_decode(tokenizer: &Tokenizer, ids: &[u32]) {
        let mut stream = TextStream::new();
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(tokenizer, id).unwrap());
            assert!(stream.ids.len() <= ids.len().min(CONTEXT_TOKENS) || stream.bytes.is_empty());
            assert!(stream.bytes.len() < 4, "{ids:?}");
        }
        text.extend(stream.finish(tokenizer).unwrap());
        assert_eq!(text, tokenizer.decode(ids).unwrap(), "{ids:?}");
    }

    #[test]
    fn random_tokens_give_the_text_of_the_whole() {
        let metaspace = json!({"type": "Metaspace", "replacement": "▁",
                               "prepend_scheme": "first", "split": false});
        let mut state = 1;
        for (tokenizer, size) in [
            (byte_level(), 320),
            (llama(), 264),
            (byte_fallback(metaspace), 264),
            (byte_fallback(json!(null)), 264),
        ] {
            for round in 0..600 {
                let ids: Vec<u32> = (0..random(&mut state) % 24)
                    .map(|_| match round % 3 {
                        // Any token; then mostly words; then mostly bytes of longer characters.
                        0 => random(&mut state) % size,
                        1 => 250 + random(&mut state) % (size - 250),
                        _ => [0xF0, 0x9F, 0xA6, 0x80, 0xE6, 0x97, 0xA5, 0x41, 256]
                            [random(&mut state) as usize % 9],
                    } as u32)
                    .collect();
                assert_equals_decode(&tokenizer, &ids);
            }
        }
    }

    #[test]
    fn random_texts_come_in_whole_characters() {
        let tokenizer = byte_level();
        let alphabet: Vec<char> = "ab \n<é日🦀\u{301}".chars().collect();
        let mut state = 2;
        for _ in 0..300 {
            let text: String = (0..random(&mut state) % 20)
                .map(|_| alphabet[random(&mut state) as usize % alphabet.len()])
                .collect();
            let ids = tokenizer.encode(&text).unwrap();
            let mut stream = TextStream::new();
            let mut all = String::new();
            for id in ids {
                if let Some(part) = stream.push(&tokenizer, id).unwrap() {
                    assert!(!part.contains(char::REPLACEMENT_CHARACTER), "{part:?} of {text:?}");
                    all += &part;
                }
            }
            // Each character was whole with its last byte: nothing is left for the end.
            assert_eq!(all, text);
            assert_eq!(stream.finish(&tokenizer).unwrap(), None);
        }
    }

    #[test]
    fn a_cut_character_is_replaced_at_the_end() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("a🦀").unwrap();
        let mut stream = TextStream::new();
        assert_eq!(stream.push(&tokenizer, ids[0]).unwrap().as_deref(), Some("a"));
        for &id in &ids[1..ids.len() - 1] {
            assert_eq!(stream.push(&tokenizer, id).unwrap(), None);
        }
        assert_eq!(stream.finish(&tokenizer).unwrap().as_deref(), Some("\u{FFFD}"));
        // The stream is new again.
        assert_eq!(stream.push(&tokenizer, ids[0]).unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn words_come_with_their_spaces_at_once() {
        let tokenizer = llama();
        let id = |token: &str| tokenizer.token_to_id(token).unwrap();
        let mut stream = TextStream::new();
        let mut push = |token: &str| stream.push(&tokenizer, id(token)).unwrap();
        assert_eq!(push("▁b").as_deref(), Some("b"));
        assert_eq!(push("▁b").as_deref(), Some(" b"));
        assert_eq!(push("<0xC3>"), None);
        assert_eq!(push("<0xA9>"), None);
        assert_eq!(push("a").as_deref(), Some("éa"));
    }

    #[test]
    fn long_answers_take_no_more_memory_than_short_ones() {
        for tokenizer in [byte_level(), llama()] {
            let a = tokenizer.token_to_id("a").unwrap();
            let mut stream = TextStream::new();
            for _ in 0..10_000 {
                assert_eq!(stream.push(&tokenizer, a).unwrap().as_deref(), Some("a"));
                assert!(stream.ids.len() <= CONTEXT_TOKENS && stream.bytes.is_empty());
            }
        }
    }
}
