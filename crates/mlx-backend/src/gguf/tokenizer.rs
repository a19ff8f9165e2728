//! The tokenizer as `tokenizer.json` says it, the chat template, and the tokens that end an answer.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::{Gguf, metadata::need};
use crate::{Error, Result, chat::ChatTemplate, tokenizer::Tokenizer};

/// Tokens that are never written but by the model or a template.
const CONTROL: i64 = 3;
/// Texts that are one token wherever they are.
const USER_DEFINED: i64 = 4;
/// Rows of the embedding without a token.
const UNUSED: i64 = 5;

/// The names of tokens that end a turn or a text, whatever else the metadata says, as in llama.cpp.
const ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"];

/// How a text is split before its pieces are made tokens, by the name in `tokenizer.ggml.pre`.
struct Pre {
    name: &'static str,
    split: Split,
    /// Whether a piece that is a token is never made of smaller ones.
    ignore_merges: bool,
    normalizer: Option<&'static str>,
}

enum Split {
    /// The pattern of GPT-2, after each digit by itself if `true`.
    Gpt2(bool),
    Pattern(&'static str),
}

/// Sources: `tokenizer.json` of the checkpoints; `llama-vocab.cpp` of llama.cpp for the names.
const PRES: [Pre; 4] = [
    Pre { name: "gpt-2", split: Split::Gpt2(false), ignore_merges: false, normalizer: None },
    Pre { name: "smollm", split: Split::Gpt2(true), ignore_merges: false, normalizer: None },
    Pre {
        name: "qwen2",
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: false,
        normalizer: Some("NFC"),
    },
    Pre {
        name: "llama-bpe",
        split: Split::Pattern(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        ignore_merges: true,
        normalizer: None,
    },
];

impl Pre {
    fn steps(&self) -> Value {
        let bytes = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": use_regex})
        };
        let steps = match self.split {
            Split::Gpt2(false) => vec![bytes(true)],
            Split::Gpt2(true) => {
                vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]
            }
            Split::Pattern(pattern) => vec![
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                    "invert": false}),
                bytes(false),
            ],
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

impl Gguf {
    /// Returns the tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it is none of those that are known, or not as it must be.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        let json = self.tokenizer_json();
        json.and_then(|json| Tokenizer::from_json(json.to_string().as_bytes()))
            .map_err(|reason| Error::Tokenizer(format!("{}: {reason}", self.path.display())))
    }

    fn tokenizer_json(&self) -> Result<Value, String> {
        let model = need(self.metadata.text("tokenizer.ggml.model")?, "tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(format!("expected `tokenizer.ggml.model` gpt2, found {model}"));
        }
        let pre = need(self.metadata.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?;
        let pre = PRES.iter().find(|known| known.name == pre).ok_or_else(|| {
            let known = PRES.map(|pre| pre.name).join(", ");
            format!("expected `tokenizer.ggml.pre` one of {known}, found {pre}")
        })?;
        let tokens = self.tokens()?;
        let key = "tokenizer.ggml.token_type";
        let kinds = need(self.metadata.integers(key)?, key)?;
        if kinds.len() != tokens.len() {
            let (tokens, kinds) = (tokens.len(), kinds.len());
            return Err(format!("expected `{key}` of {tokens} tokens, found {kinds}"));
        }
        // A vocabulary of bytes has none.
        let merges = self.metadata.texts("tokenizer.ggml.merges")?.unwrap_or_default();
        let mut vocabulary = HashMap::new();
        let mut added = Vec::new();
        for (id, (token, &kind)) in tokens.iter().zip(kinds).enumerate() {
            if kind == UNUSED {
                continue;
            }
            if let Some(first) = vocabulary.insert(token, id) {
                return Err(format!("the token {token:?} is there twice, as {first} and {id}"));
            }
            if kind == CONTROL || kind == USER_DEFINED {
                added.push(
                    json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": kind == CONTROL}),
                );
            }
        }
        let merges = merges.iter().map(|merge| {
            let pair = merge.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty());
            let (a, b) = pair.ok_or_else(|| {
                format!(
                    "expected two tokens and a space in `tokenizer.ggml.merges`, found {merge:?}"
                )
            })?;
            Ok(json!([a, b]))
        });
        Ok(json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": pre.normalizer.map(|name| json!({"type": name})),
            "pre_tokenizer": pre.steps(),
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": pre.ignore_merges,
                "vocab": vocabulary,
                "merges": merges.collect::<Result<Vec<Value>, String>>()?,
            },
        }))
    }

    /// Returns the texts of all tokens; there are no more than the embedding has rows.
    fn tokens(&self) -> Result<&[String], String> {
        let key = "tokenizer.ggml.tokens";
        let tokens = need(self.metadata.texts(key)?, key)?;
        let embedding = self.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first());
        let rows = embedding.copied().unwrap_or_default();
        match tokens.len() > rows {
            true => {
                Err(format!("`{key}` has {} tokens for {rows} rows of the embedding", tokens.len()))
            }
            false => Ok(tokens),
        }
    }

    /// Returns the chat template.
    ///
    /// # Errors
    /// [`Error::Template`] if there is none, or it is no template.
    pub(crate) fn chat_template(&self) -> Result<ChatTemplate> {
        let source = self.metadata.text("tokenizer.chat_template").and_then(|source| {
            source.ok_or("no `tokenizer.chat_template` in the metadata".to_owned())
        });
        let template = source.map_err(Error::Template).and_then(|source| {
            let tokens = self.named_tokens().map_err(Error::Template)?;
            ChatTemplate::new(source, tokens)
        });
        template.map_err(|error| match error {
            Error::Template(reason) => {
                Error::Template(format!("{}: {reason}", self.path.display()))
            }
            other => other,
        })
    }

    /// Returns what a template may call `bos_token` and so on.
    fn named_tokens(&self) -> Result<Map<String, Value>, String> {
        let tokens = self.tokens()?;
        let mut named = Map::new();
        for (name, key) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("pad_token", "padding"),
            ("unk_token", "unknown"),
        ] {
            let id = self.metadata.number(&format!("tokenizer.ggml.{key}_token_id"))?;
            let token = id.and_then(|id| tokens.get(usize::try_from(id).ok()?));
            named.extend(token.map(|token| (name.to_owned(), token.as_str().into())));
        }
        Ok(named)
    }

    /// Returns the ids of all tokens that end an answer.
    pub(super) fn stop_ids(&self) -> Result<Vec<u64>, String> {
        let mut ids = BTreeSet::new();
        for key in ["eos", "eot", "eom"] {
            ids.extend(self.metadata.number(&format!("tokenizer.ggml.{key}_token_id"))?);
        }
        let kinds = self.metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        let named = self.tokens()?.iter().zip(kinds).zip(0..);
        ids.extend(named.filter_map(|((token, &kind), id)| {
            (kind == CONTROL && ENDS.contains(&token.as_str())).then_some(id)
        }));
        Ok(ids.into_iter().collect())
    }
}
