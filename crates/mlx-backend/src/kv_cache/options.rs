//! What may be asked of keys and values: that they take less memory.

use crate::{Error, Result, guard::DecoderFootprint, quantize::Quantize};

/// How the keys and values of an answer are kept.
///
/// With either setting an answer takes its steps alone, beside those that others share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvCacheOptions {
    /// Packs keys and values; `None` keeps them as they are computed.
    pub quantize: Option<KvQuantize>,
    /// Keeps the keys and values of some tokens only; `None` keeps all.
    pub window: Option<KvWindow>,
}

/// Keys and values as integers with a scale and a bias for each group, in 8 bits 28 % of what f32
/// takes and in 4 bits 16 %. They are rounded, so answers can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvQuantize {
    /// Bits of a value: 8 or 4, or 2, 3, 5 or 6.
    pub bits: i32,
    /// Values that share a scale: 32, 64 or 128, a divisor of the head size of the model.
    pub group_size: i32,
    /// Tokens up to which nothing is packed: short answers are exact, and take little memory anyway.
    pub start_tokens: usize,
}

impl Default for KvQuantize {
    /// 8 bits in groups of 64, from 5000 tokens on, as mlx-vlm's default.
    fn default() -> Self {
        Self { bits: 8, group_size: 64, start_tokens: 5000 }
    }
}

/// A window over a sequence: what is read sees the first tokens and the last ones, and memory stays
/// bounded however long the sequence gets. Source: arXiv:2309.17453.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvWindow {
    /// Most tokens that a token sees, itself and the first ones included.
    pub max_tokens: usize,
    /// First tokens that stay; fewer than `max_tokens`.
    pub keep_tokens: usize,
}

impl KvWindow {
    /// Returns a window of `max_tokens` that keeps the first four, as mlx-vlm does.
    #[must_use]
    pub fn new(max_tokens: usize) -> Self {
        Self { max_tokens, keep_tokens: 4 }
    }
}

impl KvQuantize {
    /// Returns how a value is packed.
    pub(crate) fn packing(&self) -> Quantize {
        Quantize::affine(self.bits, self.group_size)
    }
}

impl KvCacheOptions {
    /// Whether keys and values are kept as they are computed, all of them.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Returns up to how many tokens nothing is packed.
    pub(crate) fn exact_tokens(&self) -> u64 {
        self.quantize.map_or(u64::MAX, |how| how.start_tokens as u64)
    }

    /// Returns of how many tokens keys and values are held once `tokens` were read.
    pub(crate) fn held_tokens(&self, tokens: u64) -> u64 {
        self.window.map_or(tokens, |window| tokens.min(window.max_tokens as u64))
    }

    /// Whether those of a sequence of `tokens` are packed.
    pub(crate) fn packs(&self, tokens: usize) -> bool {
        self.quantize.is_some_and(|how| tokens >= how.start_tokens)
    }

    /// Checks the values, and that they fit a decoder.
    ///
    /// # Errors
    /// [`Error::Prompt`] with a sentence with what was expected and what was found.
    pub(crate) fn validate(&self, decoder: &DecoderFootprint) -> Result<()> {
        let head_dim = decoder.head_dim;
        let refuse = |reason: String| Err(Error::Prompt(reason));
        if let Some(how) = self.quantize {
            how.packing()
                .validate()
                .map_err(|reason| Error::Prompt(format!("keys and values: {reason}")))?;
            if !head_dim.is_multiple_of(u64::from(how.group_size.unsigned_abs())) {
                return refuse(format!(
                    "keys and values: groups of {} do not divide heads of {head_dim} values",
                    how.group_size
                ));
            }
        }
        if let Some(KvWindow { max_tokens, keep_tokens }) = self.window {
            if self.quantize.is_some() {
                return refuse("keys and values are either packed or kept in a window".to_owned());
            }
            if decoder.windows {
                return refuse(
                    "keys and values in a window: the model has layers with windows of their own"
                        .to_owned(),
                );
            }
            if max_tokens <= keep_tokens || i32::try_from(max_tokens).is_err() {
                return refuse(format!(
                    "a window must have more tokens than the {keep_tokens} that stay, and less \
                     than 2^31, found {max_tokens}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_refused() {
        let packed = |bits, group_size| KvCacheOptions {
            quantize: Some(KvQuantize { bits, group_size, start_tokens: 0 }),
            window: None,
        };
        let decoder = |head_dim, windows| DecoderFootprint {
            layers: 1,
            hidden: 1,
            inner: 1,
            heads: 1,
            key_value_heads: 1,
            head_dim,
            vocabulary: 1,
            windows,
        };
        let says = |options: KvCacheOptions| {
            options.validate(&decoder(80, false)).unwrap_err().to_string()
        };
        assert!(packed(8, 64).validate(&decoder(128, true)).is_ok());
        assert!(says(packed(8, 64)).contains("groups of 64 do not divide heads of 80 values"));
        assert!(says(packed(7, 16)).contains("bits must be one of"));
        let window = |max_tokens| KvCacheOptions {
            quantize: None,
            window: Some(KvWindow { max_tokens, keep_tokens: 4 }),
        };
        assert!(window(5).validate(&decoder(80, false)).is_ok());
        let error = window(5).validate(&decoder(80, true)).unwrap_err().to_string();
        assert!(error.contains("windows of their own"), "{error}");
        assert!(says(window(4)).contains("more tokens than the 4 that stay"));
        let both = KvCacheOptions { quantize: packed(8, 16).quantize, ..window(5) };
        assert!(both.validate(&decoder(80, false)).is_err());
    }
}
