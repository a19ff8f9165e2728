//! Keys and values of several sequences that are read together, a token of each at a time.
//!
//! Sequences of about one length are a group, which has one buffer in each layer. They are aligned at
//! their ends, so that all write to the same place, and what is before the beginning of a shorter one
//! is masked:
//!
//! ```text
//!                 0                     end   capacity
//! longest row     | k k k k k k k k k k |     |
//! shorter row     | - - - k k k k k k k |     |
//! ```
//!
//! Keys are turned before they are stored, so it does not matter where in a buffer they stand.

use std::cmp::Reverse;

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    fast, ops,
    transforms::eval,
};

use super::{
    Attention, KvCache, LayerCaches, PlainCache, STEP_TOKENS, no_layer,
    plain::{capacity, grown},
};
use crate::{
    device::Backend,
    ffi::{slice, slice_update},
    nn::{MAX_SCORE_BYTES, Reach, attention},
};

/// Sequences whose lengths differ by less share a group, however short they are.
const NEAR_TOKENS: u32 = 256;

/// Returns the most tokens that a buffer has room for because of a sequence of `tokens`: what the
/// longest of its group may have. All rows grow alike, so this holds as long as the group lives.
pub(crate) fn padded_tokens(tokens: u32) -> u32 {
    tokens.saturating_add((tokens / 2).max(NEAR_TOKENS))
}

/// The sequences of a batch.
#[derive(Debug)]
pub(crate) struct RowCaches {
    groups: Vec<Group>,
    /// Whether buffers are read whole and masked behind their end: cuDNN plans for every shape.
    whole: bool,
}

/// Sequences of about one length.
#[derive(Debug)]
struct Group {
    /// Tokens of each row, the longest first.
    lengths: Vec<i32>,
    /// Where the next token goes.
    end: i32,
    /// Keys and values of each layer, `[B, K, S, D]`.
    layers: Vec<Option<(Array, Array)>>,
    /// What scores are masked with, `[B, 1, 1, S]`; `None` where nothing has to be.
    padding: Option<Array>,
    /// The same, of the step that is being made.
    mask: Option<Array>,
}

impl RowCaches {
    /// Returns an empty batch.
    pub(crate) fn new(backend: Backend) -> Self {
        Self { groups: Vec::new(), whole: backend == Backend::Cuda }
    }

    /// Returns how many tokens of each sequence were read.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = i32> {
        self.groups.iter().flat_map(|group| group.lengths.iter().copied())
    }

    /// Returns how many bytes each sequence takes, with what is empty in its buffers.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u64> {
        self.groups.iter().flat_map(|group| {
            let (rows, layers) = (group.lengths.len(), group.layers.iter().flatten());
            let bytes: usize = layers.map(|(k, v)| k.nbytes() + v.nbytes()).sum();
            std::iter::repeat_n((bytes / rows.max(1)) as u64, rows)
        })
    }

    /// Returns the caches of one sequence by itself, views of what all share.
    pub(crate) fn row(&self, row: usize) -> MlxResult<Vec<KvCache>> {
        let mut first = 0;
        for group in &self.groups {
            let at = row - first;
            first += group.lengths.len();
            if row < first {
                let layer = |layer| group.row(layer, at).map(KvCache::Plain);
                return (0..group.layers.len()).map(layer).collect();
            }
        }
        Err(Exception::custom("no such row"))
    }

    /// Lets those sequences go that do not stay, and takes in `new` ones. Returns the new order: the
    /// index that each row had before, where the new ones come after all others.
    ///
    /// What changes is copied, layer by layer, so that no more than a layer is there twice.
    pub(crate) fn change(
        &mut self,
        stays: &[bool],
        mut new: Vec<Vec<KvCache>>,
    ) -> MlxResult<Vec<usize>> {
        let mut old: Vec<Option<Group>> = self.groups.drain(..).map(Some).collect();
        // Where each row comes from: a group and a place in it, or one of the new ones.
        let mut sources = Vec::new();
        for (at, group) in old.iter().enumerate() {
            let lengths = group.iter().flat_map(|group| &group.lengths).enumerate();
            sources.extend(lengths.map(|(row, &length)| (length, Some(at), row)));
        }
        let staying = (0..sources.len()).filter(|&row| stays[row]);
        let order = staying.chain((0..new.len()).map(|i| sources.len() + i)).collect();
        sources.extend(
            new.iter()
                .enumerate()
                .map(|(i, caches)| (caches.first().map_or(0, KvCache::offset), None, i)),
        );

        let mut groups = Vec::new();
        let mut changed = Vec::new();
        let parts = partition(order, |row| sources[row].0);
        for part in &parts {
            let from: Vec<_> = part.iter().map(|&row| sources[row]).collect();
            let whole = from[0].1.filter(|&at| {
                let rows = old[at].as_ref().map_or(0, |group| group.lengths.len());
                from.iter()
                    .map(|&(_, group, row)| (group, row))
                    .eq((0..rows).map(|r| (Some(at), r)))
            });
            match whole.and_then(|at| old[at].take()) {
                Some(group) => groups.push(group),
                None => {
                    groups.push(Group::empty(from.iter().map(|&(length, ..)| length).collect()));
                    changed.push((groups.len() - 1, from));
                }
            }
        }

        let layers = |old: &Option<Group>| old.as_ref().map(|group| group.layers.len());
        let layers = old.iter().filter_map(layers).chain(new.iter().map(Vec::len)).min();
        for layer in 0..layers.unwrap_or(0) {
            for (at, from) in &changed {
                let parts: Vec<(Array, Array)> = from
                    .iter()
                    .map(|&(_, group, row)| {
                        let cache = match group.and_then(|group| old[group].as_ref()) {
                            Some(group) => Some(group.row(layer, row)?),
                            None => match &new[row][layer] {
                                KvCache::Plain(cache) => Some(cache.clone()),
                                // The engine has those take their steps alone.
                                KvCache::Packed(_) | KvCache::Window(_) => None,
                            },
                        };
                        cache.and_then(PlainCache::into_buffers).ok_or_else(no_layer)
                    })
                    .collect::<MlxResult<_>>()?;
                let joined = groups[*at].join(&parts)?;
                drop(parts);
                eval([&joined.0, &joined.1])?;
                groups[*at].layers.push(Some(joined));
            }
            // What was copied is given back before the next layer is.
            old.iter_mut().flatten().for_each(|group| group.layers[layer] = None);
            new.iter_mut().for_each(|caches| caches[layer] = KvCache::default());
        }
        for (at, _) in changed {
            groups[at].pad(self.whole)?;
        }
        self.groups = groups;
        Ok(parts.concat())
    }

    /// Prepares the step that reads another token of each sequence.
    pub(crate) fn begin_step(&mut self) -> MlxResult<()> {
        self.groups.iter_mut().try_for_each(|group| group.begin_step(self.whole))
    }

    /// Says that the step was submitted.
    pub(crate) fn end_step(&mut self) {
        for group in &mut self.groups {
            group.end += 1;
            group.lengths.iter_mut().for_each(|length| *length += 1);
        }
    }
}

impl LayerCaches for RowCaches {
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        let whole = self.whole;
        if let [group] = self.groups.as_mut_slice() {
            return group.attend(layer, queries, (keys, values), how, whole);
        }
        let mut first = 0;
        let mut parts = Vec::with_capacity(self.groups.len());
        for group in &mut self.groups {
            let end = first + group.lengths.len() as i32;
            let rows = |x: &Array| slice(x, [first, 0, 0, 0], [end, x.dim(1), x.dim(2), x.dim(3)]);
            let new = (&rows(keys)?, &rows(values)?);
            parts.push(group.attend(layer, &rows(queries)?, new, how, whole)?);
            first = end;
        }
        ops::concatenate(&parts, 0)
    }
}

impl Group {
    /// Returns a group of sequences of `lengths`, which has no layer yet.
    fn empty(lengths: Vec<i32>) -> Self {
        let end = lengths.iter().copied().max().unwrap_or(0);
        Self { lengths, end, layers: Vec::new(), padding: None, mask: None }
    }

    fn rows(&self) -> i32 {
        self.lengths.len() as i32
    }

    /// The sequence `row` in `layer`, a view.
    fn row(&self, layer: usize, row: usize) -> MlxResult<PlainCache> {
        let (keys, values) = self.layers[layer].as_ref().ok_or_else(no_layer)?;
        let (length, at) = (self.lengths[row], row as i32);
        let of = |x: &Array| {
            let (heads, d) = (x.dim(1), x.dim(3));
            slice(x, [at, 0, self.end - length, 0], [at + 1, heads, self.end, d])
        };
        Ok(PlainCache::of(of(keys)?, of(values)?))
    }

    /// Puts the buffers of single sequences into one.
    fn join(&self, parts: &[(Array, Array)]) -> MlxResult<(Array, Array)> {
        let joined = |of: &dyn Fn(&(Array, Array)) -> Array| {
            let first = of(&parts[0]);
            let (heads, d) = (first.dim(1), first.dim(3));
            let shape = [self.rows(), heads, self.capacity(self.end), d];
            let mut all = ops::zeros_dtype(&shape, first.dtype())?;
            for (row, (part, &length)) in (0..).zip(parts.iter().zip(&self.lengths)) {
                let part = slice(&of(part), [0; 4], [1, heads, length, d])?;
                let from = [row, 0, self.end - length, 0];
                all = slice_update(&all, &part, from, [row + 1, heads, self.end, d])?;
            }
            Ok::<_, Exception>(all)
        };
        Ok((joined(&|(keys, _)| keys.clone())?, joined(&|(_, values)| values.clone())?))
    }

    /// Returns the size of buffers for `tokens`: that of a single sequence where it is one.
    fn capacity(&self, tokens: i32) -> i32 {
        match self.lengths.len() {
            1 => capacity(tokens),
            _ => (tokens + STEP_TOKENS) / STEP_TOKENS * STEP_TOKENS,
        }
    }

    /// Makes what scores are masked with.
    fn pad(&mut self, whole: bool) -> MlxResult<()> {
        let Some(Some((keys, _))) = self.layers.first() else { return Ok(()) };
        let (size, dtype) = (keys.dim(2), keys.dtype());
        let even = self.lengths.iter().all(|&length| length == self.end);
        if self.lengths.len() == 1 || (even && !whole) {
            self.padding = None;
            return Ok(());
        }
        let mut values = Vec::with_capacity(self.lengths.len() * size as usize);
        for length in &self.lengths {
            let start = self.end - length;
            values.extend((0..size).map(|at| if at < start { masked(dtype) } else { 0.0 }));
        }
        let padding = Array::from_slice(&values, &[self.rows(), 1, 1, size]).as_dtype(dtype)?;
        padding.eval()?;
        self.padding = Some(padding);
        Ok(())
    }

    fn begin_step(&mut self, whole: bool) -> MlxResult<()> {
        let end = self.end + 1;
        let size = self.layers.first().and_then(Option::as_ref).map_or(0, |(k, _)| k.dim(2));
        if end > size {
            self.grow(end)?;
            self.pad(whole)?;
        }
        self.mask = match &self.padding {
            None => None,
            Some(padding) if whole => {
                let size = padding.dim(3);
                let columns: Vec<i32> = (0..size).collect();
                let behind =
                    Array::from_slice(&columns, &[1, 1, 1, size]).ge(Array::from_int(end))?;
                let low = Array::from_f32(masked(padding.dtype())).as_dtype(padding.dtype())?;
                Some(ops::select(behind, low, padding)?)
            }
            Some(padding) => Some(slice(padding, [0; 4], [self.rows(), 1, 1, end])?),
        };
        Ok(())
    }

    /// Makes room for `tokens`, layer by layer.
    fn grow(&mut self, tokens: i32) -> MlxResult<()> {
        let size = self.capacity(tokens);
        for layer in &mut self.layers {
            let (keys, values) = layer.take().ok_or_else(no_layer)?;
            let keys = grown(Some(&keys), &keys, self.end, size)?;
            let values = grown(Some(&values), &values, self.end, size)?;
            eval([&keys, &values])?;
            *layer = Some((keys, values));
        }
        Ok(())
    }

    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
        whole: bool,
    ) -> MlxResult<Array> {
        let held = self.layers.get_mut(layer).and_then(Option::take).ok_or_else(no_layer)?;
        let (rows, heads, d, end) = (self.rows(), keys.dim(1), keys.dim(3), self.end + 1);
        let append = |all: Array, new: &Array| {
            slice_update(&all, new, [0, 0, end - 1, 0], [rows, heads, end, d])
        };
        let held = (append(held.0, keys)?, append(held.1, values)?);
        // All end at one place, so the last tokens of each are in the same places.
        let first = how.window.map_or(0, |most| (end - most).max(0));
        let seen = |all: &Array| match whole && self.mask.is_some() && first == 0 {
            true => Ok(all.clone()),
            false => slice(all, [0, 0, first, 0], [rows, heads, end, d]),
        };
        let (keys, values) = (seen(&held.0)?, seen(&held.1)?);
        self.layers[layer] = Some(held);
        if rows == 1 {
            return attention(queries, &keys, &values, how.scale, Reach::All, how.fused);
        }
        let shape = queries.shape();
        // Queries that share a key head are queries of one head: its keys are read once.
        let share = shape[1] / heads;
        let folded = queries.reshape(&[rows, heads, share, d])?;
        if let Some(mask) = self.mask.as_ref().filter(|mask| whole && mask.dim(2) != share) {
            // cuDNN takes a mask that all heads share, but not one that all queries do.
            self.mask = Some(ops::concatenate(&vec![mask; share as usize], 2)?);
        }
        let mask = match (&self.mask, first) {
            (Some(mask), 1..) => Some(slice(mask, [0, 0, 0, first], [rows, 1, mask.dim(2), end])?),
            (mask, _) => mask.clone(),
        };
        let out = attend_masked(&folded, (&keys, &values), mask.as_ref(), how)?;
        out.reshape(shape)
    }
}

/// Attention of `[B, K, L, D]` queries over all of `[B, K, S, D]` that `mask` leaves; where MLX has
/// no fused kernel, of as many rows at a time as scores may be held.
fn attend_masked(
    queries: &Array,
    (keys, values): (&Array, &Array),
    mask: Option<&Array>,
    how: Attention,
) -> MlxResult<Array> {
    let attend = |queries: &Array, keys: &Array, values: &Array, mask: Option<&Array>| {
        let mask = mask.map(fast::ScaledDotProductAttentionMask::Array);
        fast::scaled_dot_product_attention(queries, keys, values, how.scale, mask, None)
    };
    let rows = queries.dim(0);
    let row_bytes = [queries.dim(1), queries.dim(2), keys.dim(2), 4].map(|size| size as u64);
    let fit = MAX_SCORE_BYTES / row_bytes.iter().product::<u64>().max(1);
    let at_once = i32::try_from(fit.max(1)).unwrap_or(i32::MAX);
    if how.fused || at_once >= rows {
        return attend(queries, keys, values, mask);
    }
    let mut parts = Vec::new();
    for from in (0..rows).step_by(at_once as usize) {
        let to = rows.min(from + at_once);
        let of = |x: &Array| slice(x, [from, 0, 0, 0], [to, x.dim(1), x.dim(2), x.dim(3)]);
        let mask = mask.map(of).transpose()?;
        parts.push(attend(&of(queries)?, &of(keys)?, &of(values)?, mask.as_ref())?);
        parts.last().map_or(Ok(()), Array::eval)?;
    }
    ops::concatenate(&parts, 0)
}

/// What is added to a score that must not count: far below any, and still a number, since kernels
/// take differences of such.
fn masked(dtype: Dtype) -> f32 {
    if dtype == Dtype::Float16 { -6e4 } else { -1e38 }
}

/// Divides `rows` into groups by their lengths, the longest first.
fn partition(mut rows: Vec<usize>, length: impl Fn(usize) -> i32) -> Vec<Vec<usize>> {
    rows.sort_by_key(|&row| (Reverse(length(row)), row));
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for row in rows {
        let room = padded_tokens(length(row).unsigned_abs());
        match parts.last_mut() {
            Some(part) if length(part[0]).unsigned_abs() <= room => part.push(row),
            _ => parts.push(vec![row]),
        }
    }
    parts
}

#[cfg(test)]
mod tests;
