//! Text to tokens and back, by the `tokenizer.json` of a checkpoint.

use std::{collections::HashMap, fmt, path::Path};

use serde_json::Value;
use tokenizers::{DecoderWrapper, Tokenizer as Inner};

use crate::{Error, Result, calls, checkpoint::read_bytes, engine::caught};

/// Vocabularies of a quarter of a million tokens take 35 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Longest text that is encoded, in bytes: several times the largest context of any model.
/// A longer one would be refused for its tokens anyway, only after seconds of work.
const MAX_TEXT_BYTES: usize = 4 << 20;

/// The tokenizer of one checkpoint.
pub(crate) struct Tokenizer {
    inner: Inner,
    special_tokens: Vec<String>,
    /// The byte that each character of a byte-level token stands for; `None` if tokens are text.
    byte_of_char: Option<HashMap<char, u8>>,
    /// Whether tokens are texts with `▁` for a space, and bytes of the form `<0xE4>`.
    byte_fallback: bool,
}

impl Tokenizer {
    /// Loads `tokenizer.json` from the folder `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Tokenizer`] that names it if it is not a
    /// tokenizer.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = read_bytes(&path, MAX_FILE_BYTES)?;
        Self::from_json(&bytes)
            .map_err(|reason| Error::Tokenizer(format!("{}: {reason}", path.display())))
    }

    /// Returns the tokens of `text`. The texts of special tokens become these tokens; none is
    /// added at the ends.
    ///
    /// # Errors
    /// [`Error::Prompt`] if `text` is longer than 4 MiB, [`Error::Tokenizer`] if the tokenizer
    /// fails on it.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::Prompt(format!(
                "the prompt is {} bytes of text, the most is {MAX_TEXT_BYTES}",
                text.len()
            )));
        }
        let encoding = contained(|| self.inner.encode_fast(text, false));
        Ok(encoding.map_err(Error::Tokenizer)?.get_ids().to_vec())
    }

    /// Returns the text of `ids` without special tokens and without ids that the vocabulary lacks;
    /// models pad the vocabulary with such ids. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer fails.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        contained(|| self.inner.decode(ids, true)).map_err(Error::Tokenizer)
    }

    /// Returns the id of the token whose text is `token`.
    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the number of tokens, the added ones included. The model may have more rows.
    pub(crate) fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Returns the texts of all special tokens in the order of their ids.
    pub(crate) fn special_tokens(&self) -> &[String] {
        &self.special_tokens
    }

    /// Returns what `id` adds to a text, in the tokenizer's own writing; `None` for special tokens
    /// and unknown ids, which add nothing. Marks of calls are text, although some tokenizers have them as
    /// special tokens.
    pub(crate) fn piece(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        let hidden = |token: &str| added.is_special_token(token) && !is_call_mark(token);
        self.inner.id_to_token(id).filter(|token| !hidden(token))
    }

    /// Whether `mark` can be seen in the text of an answer, if its tokens come.
    pub(crate) fn says(&self, mark: &str) -> bool {
        self.is_byte_level() || !self.special_tokens.iter().any(|token| token == mark)
    }

    /// Returns the bytes that `piece` stands for, if tokens of this tokenizer are bytes.
    pub(crate) fn bytes_of_piece(&self, piece: &str) -> Option<Vec<u8>> {
        let map = self.byte_of_char.as_ref()?;
        let bytes: Option<Vec<u8>> = piece.chars().map(|c| map.get(&c).copied()).collect();
        // Tokens that were added as text hold characters outside of the map, a space above all.
        Some(bytes.unwrap_or_else(|| piece.as_bytes().to_vec()))
    }

    /// Whether each token stands for the same bytes wherever it is in an answer.
    pub(crate) fn has_token_bytes(&self) -> bool {
        self.byte_of_char.is_some() || self.byte_fallback
    }

    /// Whether tokens are bytes, so that a text has the same tokens wherever it is.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_of_char.is_some()
    }

    /// Returns one more than the largest id.
    pub(crate) fn ids_end(&self) -> u32 {
        let vocabulary = self.inner.get_vocab(true);
        vocabulary.values().max().map_or(0, |&id| id.saturating_add(1))
    }

    /// Whether `id` is not of the vocabulary that texts are cut into, but was added: control tokens, and
    /// marks such as `<tool_call>`.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// Returns the bytes that `id` adds to an answer, or its name if it was
    /// [added](Self::is_added); `None` for unknown ids, and where the tokenizer
    /// [has no such bytes](Self::has_token_bytes).
    pub(crate) fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let piece = self.inner.id_to_token(id)?;
        if self.is_added(id) {
            return Some(piece.into_bytes());
        }
        if let Some(bytes) = self.bytes_of_piece(&piece) {
            return Some(bytes);
        }
        let byte = |hex: &str| u8::from_str_radix(hex, 16).ok();
        let hex = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        match hex.filter(|hex| hex.len() == 2).and_then(byte) {
            Some(byte) => Some(vec![byte]),
            None => self.byte_fallback.then(|| piece.replace('▁', " ").into_bytes()),
        }
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// A sentence that says why it is none.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, String> {
        let inner = contained(|| Inner::from_bytes(json));
        let mut inner = inner.map_err(|e| format!("not a tokenizer: {e}"))?;
        // A file may ask for the truncation and padding of training; a prompt must arrive whole.
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        let mut special: Vec<_> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort_unstable();
        let byte_of_char = is_byte_level(inner.get_decoder()).then(byte_of_char);
        let byte_fallback = has_byte_fallback(inner.get_decoder());
        let special_tokens = special.into_iter().map(|(_, content)| content).collect();
        Ok(Self { inner, special_tokens, byte_of_char, byte_fallback })
    }
}

impl fmt::Debug for Tokenizer {
    /// A vocabulary is too long to print.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Calls the crate of tokenizers, in which a file that is none may lead to a panic.
fn contained<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    caught(work)?.map_err(|e| e.to_string())
}

/// Returns the text of a token as `tokenizer_config.json` writes one: a string, or an object with
/// its `content`.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn is_byte_level(decoder: Option<&DecoderWrapper>) -> bool {
    match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            matches!(sequence.get_decoders(), [DecoderWrapper::ByteLevel(_)])
        }
        _ => false,
    }
}

fn is_call_mark(token: &str) -> bool {
    [calls::OPEN, calls::CLOSE].contains(&token)
}

/// Whether `decoder` is the usual one of `SentencePiece` models: `▁` is a space, a token may be a byte, and
/// at most a space at the start of the whole text is left out.
fn has_byte_fallback(decoder: Option<&DecoderWrapper>) -> bool {
    let Some(DecoderWrapper::Sequence(sequence)) = decoder else { return false };
    let [DecoderWrapper::Replace(replace), DecoderWrapper::ByteFallback(_), rest @ ..] =
        sequence.get_decoders()
    else {
        return false;
    };
    let replace = serde_json::to_value(replace).unwrap_or_default();
    let spaces = replace["pattern"]["String"] == "▁" && replace["content"] == " ";
    let ends = |one: &DecoderWrapper| {
        matches!(one, DecoderWrapper::Fuse(_))
            || matches!(one, DecoderWrapper::Strip(strip) if strip.content == ' ' && strip.stop == 0)
    };
    spaces && rest.iter().all(ends)
}

/// The alphabet of byte-level tokenizers (GPT-2, `bytes_to_unicode`): printable bytes stand for
/// themselves, the others for the characters from U+0100 on, in order.
fn byte_of_char() -> HashMap<char, u8> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => (char::from(byte), byte),
            _ => (others.next().expect("68 characters follow U+0100"), byte),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/tiny_fp32")
    }

    #[test]
    fn special_tokens_are_read_and_skipped_in_the_text() {
        let tokenizer = Tokenizer::load(&golden()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 265);
        let ids = tokenizer.encode("<|im_start|>hé<|im_end|>").unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (257, 258));
        // Ids of the padding of the vocabulary have no text.
        let padded = [&ids[..], &[300, u32::MAX]].concat();
        assert_eq!(tokenizer.decode(&padded).unwrap(), "hé");
        assert_eq!(tokenizer.token_to_id("<|image_pad|>"), Some(262));
        assert_eq!(tokenizer.token_to_id("<|nothing|>"), None);
        assert_eq!(tokenizer.special_tokens().len(), 9);
        assert_eq!(tokenizer.special_tokens()[2], "<|im_end|>");
    }

    #[test]
    fn any_text_comes_back() {
        let tokenizer = Tokenizer::load(&golden()).unwrap();
        let spaces = " ".repeat(100_000) + "x";
        for text in
            ["", " a  b\n\n\tc ", "日本語 🦀👩‍👩‍👧 \u{0}\u{7f}", "don't 1234 <|im_start", &spaces]
        {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn training_settings_do_not_cut_or_pad_a_prompt() {
        let json = fs::read_to_string(golden().join("tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_str(&json).unwrap();
        json["truncation"] = serde_json::json!({"direction": "Right", "max_length": 2,
            "strategy": "LongestFirst", "stride": 0});
        json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 256, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("abc").unwrap().len(), 3);
    }

    #[test]
    fn a_missing_or_corrupt_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tokenizer::load(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("tokenizer.json")));
        // The last made the crate of tokenizers panic; found by fuzzing.
        let half = r#"{"version": "1.0", "decoder": {"type": "ByteLevel", "x" 1}"#;
        for text in ["", "{}", "{\"model\": 1}", half] {
            fs::write(dir.path().join("tokenizer.json"), text).unwrap();
            let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json: not a tokenizer"), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_beyond_any_context_is_refused() {
        let tokenizer = Tokenizer::load(&golden()).unwrap();
        let error = tokenizer.encode(&"a".repeat(MAX_TEXT_BYTES + 1)).unwrap_err();
        assert!(matches!(error, Error::Prompt(_)), "{error}");
    }

    #[test]
    fn the_byte_alphabet_has_a_character_for_each_byte() {
        let map = byte_of_char();
        assert_eq!(map.len(), 256);
        for (c, byte) in [('!', b'!'), ('Ġ', b' '), ('Ċ', b'\n'), ('Ń', 0xAD), ('ÿ', 0xFF)] {
            assert_eq!(map[&c], byte, "{c}");
        }
    }
}
