//! Keys and values of the tokens already read.

mod options;
mod packed;
mod plain;
mod rows;
mod sequences;
mod window;

use std::{fmt, ops::Range};

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    ops::{self, indexing::TryIndexOp},
};

use crate::nn::Reach;

pub use self::options::{KvCacheOptions, KvQuantize, KvWindow};
use self::{packed::PackedCache, window::WindowCache};
pub(crate) use self::{
    plain::{PlainCache, STEP_TOKENS},
    rows::{RowCaches, padded_tokens},
    sequences::{Places, SequenceCaches},
};

/// What the layers of a decoder have read: one sequence, or several that are read together.
pub(crate) trait LayerCaches: fmt::Debug {
    /// Appends keys and values `[B, K, L, D]` in `layer`, and returns the attention of the queries
    /// `[B, H, L, D]`, which stand at the same places, over all that each may see: `[B, H, L, D]`.
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        new: (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array>;

    /// Counts one token more in `layer`, at `position`, and returns where a kernel of our own is to write
    /// it; none if it must be appended by [`attend`](Self::attend).
    fn next_place(&mut self, _layer: usize, _position: i32) -> MlxResult<Option<Place<'_>>> {
        Ok(None)
    }

    /// The same for one token more of each of several sequences, those in `rows`, with room for the
    /// numbers of `width`; none if they are not in buffers of their own.
    fn next_places(
        &mut self,
        _layer: usize,
        _rows: Range<usize>,
        _positions: &[i32],
        _width: usize,
    ) -> MlxResult<Option<Places>> {
        Ok(None)
    }
}

/// How attention is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// What products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// Whether MLX has a fused kernel for it.
    pub(crate) fused: bool,
    /// Most tokens that a token sees, itself included; `None` for all before it.
    pub(crate) window: Option<i32>,
    /// Whether the new tokens see each other, also those after them.
    pub(crate) together: bool,
}

impl Attention {
    /// Returns which keys a query sees.
    fn reach(&self) -> Reach {
        match (self.window, self.together) {
            (None, false) => Reach::Causal,
            (None, true) => Reach::All,
            (Some(most), together) => Reach::Window { most, keep: 0, together },
        }
    }
}

/// Where the next token of a sequence goes.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// `[1, K, capacity, D]`.
    pub(crate) keys: &'a Array,
    /// `[1, K, capacity, D]`.
    pub(crate) values: &'a Array,
    /// How many tokens stand before it.
    pub(crate) tokens: i32,
    /// What [`Attend`](crate::attend::Attend) knows of the sequence.
    pub(crate) state: &'a Array,
}

impl LayerCaches for Vec<KvCache> {
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        new: (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        match self.get_mut(layer).ok_or_else(no_layer)? {
            KvCache::Plain(cache) => cache.attend(queries, new, how),
            KvCache::Packed(cache) => cache.attend(queries, new, how),
            KvCache::Window(cache) => cache.attend(queries, new, how),
        }
    }

    fn next_place(&mut self, layer: usize, position: i32) -> MlxResult<Option<Place<'_>>> {
        match self.get_mut(layer).ok_or_else(no_layer)? {
            KvCache::Plain(cache) => cache.next_place(position),
            KvCache::Packed(_) | KvCache::Window(_) => Ok(None),
        }
    }
}

fn no_layer() -> Exception {
    Exception::custom("a cache of fewer layers than the decoder has")
}

/// Keys and values of one sequence in one layer.
#[derive(Clone, Debug)]
pub(crate) enum KvCache {
    Plain(PlainCache),
    Packed(PackedCache),
    Window(WindowCache),
}

impl Default for KvCache {
    fn default() -> Self {
        Self::Plain(PlainCache::default())
    }
}

impl KvCache {
    fn new(how: &KvCacheOptions) -> Self {
        match &how.window {
            Some(window) => Self::Window(WindowCache::new(window)),
            None => Self::default(),
        }
    }

    /// Returns how many tokens were read.
    pub(crate) fn offset(&self) -> i32 {
        match self {
            Self::Plain(cache) => cache.offset(),
            Self::Packed(cache) => cache.offset(),
            Self::Window(cache) => cache.offset(),
        }
    }

    /// Packs the sequence that `layers` hold if it has grown long enough, layer by layer.
    pub(crate) fn pack_if_due(layers: &mut [Self], how: &KvCacheOptions) -> MlxResult<()> {
        let (Some(packing), Some(Self::Plain(first))) = (how.quantize, layers.first()) else {
            return Ok(());
        };
        if !how.packs(first.offset() as usize) {
            return Ok(());
        }
        for layer in layers {
            if let Self::Plain(cache) = layer {
                *layer = Self::Packed(PackedCache::of(std::mem::take(cache), packing.packing())?);
            }
        }
        Ok(())
    }

    /// Whether the last tokens of `layers` can be taken back.
    pub(crate) fn can_shorten(layers: &[Self]) -> bool {
        layers.iter().all(|layer| matches!(layer, Self::Plain(_) | Self::Packed(_)))
    }

    /// Takes back what `layers` have read beyond `tokens`, if they [can](Self::can_shorten).
    pub(crate) fn shorten(layers: &mut [Self], tokens: i32) {
        for layer in layers {
            match layer {
                Self::Plain(cache) => cache.shorten(tokens),
                Self::Packed(cache) => cache.shorten(tokens),
                Self::Window(_) => {}
            }
        }
    }

    /// Whether `layers` hold every token that was read.
    pub(crate) fn hold_all(layers: &[Self]) -> bool {
        layers.iter().all(|layer| match layer {
            Self::Plain(_) | Self::Packed(_) => true,
            Self::Window(cache) => cache.holds_all(),
        })
    }

    /// Returns the tokens of `range` of all layers, which [hold all](Self::hold_all), as one array,
    /// `[2 * layers, K, range, ..]` with the keys of all layers before the values, in memory of its
    /// own: `D` values, or bytes if they are packed.
    pub(crate) fn copy_range(layers: &[Self], range: Range<usize>) -> MlxResult<Array> {
        let (from, to) = (range.start as i32, range.end as i32);
        let part = |layer: &Self, values: bool| match layer {
            Self::Packed(cache) => cache.bytes_of(values, from..to).map(Some),
            Self::Plain(cache) => cache.part(values, from..to),
            Self::Window(cache) => cache.part(values, from..to),
        };
        let both = [false, true].into_iter();
        let parts = both.flat_map(|values| layers.iter().map(move |layer| part(layer, values)));
        let parts: Vec<Array> = parts.filter_map(Result::transpose).collect::<MlxResult<_>>()?;
        ops::concatenate(&parts, 0)
    }

    /// Whether `part`, which [`copy_range`](Self::copy_range) made, is packed.
    pub(crate) fn is_packed(part: &Array) -> bool {
        part.dtype() == Dtype::Uint8
    }

    /// Returns the caches of `layers` layers that hold the tokens of `parts`, which
    /// [`copy_range`](Self::copy_range) made of caches with the same options, one after the other.
    pub(crate) fn restore(
        layers: usize,
        parts: &[Array],
        how: &KvCacheOptions,
    ) -> MlxResult<Vec<Self>> {
        if parts.is_empty() {
            return Ok(vec![Self::new(how); layers]);
        }
        let packing = how.quantize.filter(|_| parts.iter().any(Self::is_packed));
        let all = match packing {
            // What was read before enough was there to pack is packed now.
            Some(how) => {
                let part = |part: &Array| match Self::is_packed(part) {
                    true => Ok(part.clone()),
                    false => packed::to_bytes(part, how.packing()),
                };
                let parts = parts.iter().map(part).collect::<MlxResult<Vec<_>>>()?;
                ops::concatenate(&parts, 2)?
            }
            None => ops::concatenate(parts, 2)?,
        };
        let layer = |i: usize| all.try_index((i as i32..i as i32 + 1, .., .., ..));
        let caches = (0..layers).map(|i| {
            let (keys, values) = (layer(i)?, layer(layers + i)?);
            Ok(match (packing, &how.window) {
                (Some(how), _) => {
                    Self::Packed(PackedCache::from_bytes((keys, values), how.packing())?)
                }
                (None, Some(window)) => Self::Window(WindowCache::of(window, keys, values)),
                (None, None) => Self::Plain(PlainCache::of(keys, values)),
            })
        });
        let mut caches = caches.collect::<MlxResult<Vec<_>>>()?;
        Self::pack_if_due(&mut caches, how)?;
        Ok(caches)
    }

    /// Iterates over the buffers, to evaluate them.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let (plain, packed, window) = match self {
            Self::Plain(cache) => (Some(cache), None, None),
            Self::Packed(cache) => (None, Some(cache), None),
            Self::Window(cache) => (None, None, Some(cache)),
        };
        let plain = plain.into_iter().flat_map(PlainCache::arrays);
        let packed = packed.into_iter().flat_map(PackedCache::arrays);
        plain.chain(packed).chain(window.into_iter().flat_map(WindowCache::arrays))
    }

    /// Returns how many bytes the buffers of `layers` take.
    pub(crate) fn bytes(layers: &[Self]) -> u64 {
        layers.iter().flat_map(Self::arrays).map(|buffer| buffer.nbytes() as u64).sum()
    }
}

#[cfg(test)]
mod tests;
