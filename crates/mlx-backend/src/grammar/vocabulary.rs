//! What each token adds to an answer, as a tree of bytes in which a grammar looks for those that fit.

use std::{collections::BTreeSet, fmt, sync::Arc};

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::tokenizer::Tokenizer;

/// Longest token that is used, in bytes. Longer ones are runs of spaces and the like.
const LONGEST_TOKEN: usize = 256;

/// Most tokens; the tree has 24 bits for an id.
const MOST_TOKENS: u32 = 1 << 23;

/// The tokens of a tokenizer as grammars see them.
///
/// Added tokens (the ends of turns, places of images, marks of calls) are no text here: they can be in
/// no value, and a grammar that wants one names it.
pub(super) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    tree: TokTrie,
}

impl Vocabulary {
    /// Whether grammars can be held with `tokenizer`.
    pub(super) fn suits(tokenizer: &Tokenizer, stop_tokens: &BTreeSet<u32>) -> bool {
        tokenizer.has_token_bytes()
            && stop_tokens.iter().any(|&stop| tokenizer.token_bytes(stop).is_some())
    }

    /// Returns the vocabulary of `tokenizer`, in which `stop_tokens` end an answer.
    ///
    /// # Errors
    /// The reason why grammars cannot be held with it.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        stop_tokens: &BTreeSet<u32>,
    ) -> Result<Self, String> {
        let end = tokenizer.ids_end();
        if end > MOST_TOKENS {
            return Err(format!("expected at most {MOST_TOKENS} tokens, found {end}"));
        }
        let word = |id: u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            if bytes.len() > LONGEST_TOKEN {
                Vec::new()
            } else if tokenizer.is_added(id) || stop_tokens.contains(&id) {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()
            } else if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                // No text in UTF-8 has this byte, and here it would be the mark of an added token.
                Vec::new()
            } else {
                bytes
            }
        };
        let words: Vec<Vec<u8>> = (0..end).map(word).collect();
        let stops: Vec<u32> = stop_tokens.iter().copied().filter(|&stop| stop < end).collect();
        let Some(&first) = stops.first() else {
            return Err("the vocabulary has no token that ends an answer".to_owned());
        };
        let tree = TokTrie::from(&TokRxInfo::new(end, first), &words).with_eos_tokens(&stops);
        Ok(Self { tokenizer, tree })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    /// As the model was trained, but that a written-out control token is a text.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.tree.tokenize_with_greedy_fallback(bytes, |text| match self.tokenizer.encode(text) {
            Ok(ids) if !ids.iter().any(|&id| self.tree.is_special_token(id)) => ids,
            _ => self.tree.greedy_tokenize(text.as_bytes()),
        })
    }

    /// Other tokenizers put a space in front of a text.
    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_byte_level()
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.tree.vocab_size()).finish()
    }
}
