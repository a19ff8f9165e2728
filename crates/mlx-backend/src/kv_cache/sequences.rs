//! Keys and values of several sequences that are read together, each in buffers of its own: nothing is
//! copied when one joins or leaves, for a kernel that takes them where they are.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
    ops,
};

use super::{Attention, KvCache, LayerCaches, no_layer};
use crate::ffi::slice;

/// The sequences of a batch.
#[derive(Debug)]
pub(crate) struct SequenceCaches {
    sequences: Vec<Vec<KvCache>>,
    /// What the numbers of the last [`Places`] were.
    known: Option<(Vec<i32>, Array)>,
}

/// Where the next token of each of several sequences goes, in one layer.
#[derive(Debug)]
pub(crate) struct Places {
    /// `[1, K, capacity, D]` of each.
    pub(crate) keys: Vec<Array>,
    /// The same.
    pub(crate) values: Vec<Array>,
    /// Positions, places and capacities, of as many as there may be, and how many there are.
    pub(crate) numbers: Array,
}

impl SequenceCaches {
    /// Returns a batch of `sequences`.
    pub(crate) fn new(sequences: Vec<Vec<KvCache>>) -> Self {
        Self { sequences, known: None }
    }

    /// Returns how many tokens of each sequence were read.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = i32> {
        self.sequences.iter().map(|layers| layers.first().map_or(0, KvCache::offset))
    }

    /// Returns how many bytes each sequence takes.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u64> {
        self.sequences.iter().map(|layers| KvCache::bytes(layers))
    }

    /// Returns the caches of one sequence by itself.
    pub(crate) fn row(&self, row: usize) -> MlxResult<Vec<KvCache>> {
        self.sequences.get(row).cloned().ok_or_else(|| Exception::custom("no such row"))
    }

    /// Lets those sequences go that do not stay, and takes in `new` ones. Returns the new order: the
    /// index that each row had before, where the new ones come after all others.
    pub(crate) fn change(&mut self, stays: &[bool], new: Vec<Vec<KvCache>>) -> Vec<usize> {
        let before = self.sequences.len();
        let mut order: Vec<usize> = (0..before).filter(|&row| stays[row]).collect();
        order.extend((0..new.len()).map(|i| before + i));
        let mut row = 0;
        self.sequences.retain(|_| {
            row += 1;
            stays[row - 1]
        });
        self.sequences.extend(new);
        order
    }
}

impl LayerCaches for SequenceCaches {
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        let rows = (0..).zip(&mut self.sequences).map(|(row, sequence)| {
            let of = |x: &Array| slice(x, [row, 0, 0, 0], [row + 1, x.dim(1), x.dim(2), x.dim(3)]);
            sequence.attend(layer, &of(queries)?, (&of(keys)?, &of(values)?), how)
        });
        ops::concatenate(&rows.collect::<MlxResult<Vec<_>>>()?, 0)
    }

    fn next_places(
        &mut self,
        layer: usize,
        rows: Range<usize>,
        positions: &[i32],
        width: usize,
    ) -> MlxResult<Option<Places>> {
        let (mut keys, mut values) = (Vec::with_capacity(width), Vec::with_capacity(width));
        let mut numbers = vec![0; 3 * width + 1];
        numbers[3 * width] = rows.len() as i32;
        for (i, (row, &position)) in rows.zip(positions).enumerate() {
            let cache = self.sequences.get_mut(row).and_then(|layers| layers.get_mut(layer));
            let KvCache::Plain(cache) = cache.ok_or_else(no_layer)? else {
                return Err(Exception::custom("keys and values that are not kept as computed"));
            };
            let (k, v, place) = cache
                .next_row()?
                .ok_or_else(|| Exception::custom("a sequence of which nothing was read"))?;
            (numbers[i], numbers[width + i], numbers[2 * width + i]) = (position, place, k.dim(2));
            keys.push(k.clone());
            values.push(v.clone());
        }
        // Those of all layers are alike.
        let known = self.known.take().filter(|(known, _)| *known == numbers);
        let (_, array) = self.known.insert(known.unwrap_or_else(|| {
            let array = Array::from_slice(&numbers, &[numbers.len() as i32]);
            (numbers, array)
        }));
        Ok(Some(Places { keys, values, numbers: array.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kv_cache::PlainCache, noise::noise_f32 as noise};

    const HOW: Attention = Attention { scale: 0.3, fused: false, window: None, together: false };

    /// A sequence of `tokens` tokens, in one layer.
    fn sequence(tokens: i32) -> Vec<KvCache> {
        let part = |seed: i32| noise(&[1, 2, tokens, 8], (tokens * 10 + seed) as u32);
        vec![KvCache::Plain(PlainCache::of(part(1), part(2)))]
    }

    #[test]
    fn rows_attend_as_they_do_alone_while_others_come_and_go() {
        let mut together = SequenceCaches::new(vec![sequence(5), sequence(300)]);
        let mut alone = vec![sequence(5), sequence(300)];
        for step in 0..4u32 {
            if step == 2 {
                assert_eq!(together.change(&[false, true], vec![sequence(7)]), [1, 2]);
                alone = vec![alone.remove(1), sequence(7)];
            }
            let part = |heads, seed| noise(&[2, heads, 1, 8], 7000 + step * 10 + seed);
            let (queries, keys, values) = (part(4, 0), part(2, 1), part(2, 2));
            let found = together.attend(0, &queries, (&keys, &values), HOW).unwrap();
            for (row, caches) in (0..).zip(&mut alone) {
                let of = |x: &Array| slice(x, [row, 0, 0, 0], [row + 1, x.dim(1), 1, 8]).unwrap();
                let new = (&of(&keys), &of(&values));
                let expected = caches.attend(0, &of(&queries), new, HOW).unwrap();
                assert!(of(&found).eq_values(&expected).unwrap(), "row {row}");
            }
            let lengths: Vec<i32> = alone.iter().map(|caches| caches[0].offset()).collect();
            assert_eq!(together.lengths().collect::<Vec<_>>(), lengths);
        }
        assert!(together.row(1).is_ok() && together.row(2).is_err());
    }

    #[test]
    fn places_are_behind_what_was_read_and_in_the_buffers_of_each() {
        let mut together = SequenceCaches::new(vec![sequence(5), sequence(300), sequence(1)]);
        let places = together.next_places(0, 1..3, &[340, 2], 8).unwrap().unwrap();
        assert_eq!(together.lengths().collect::<Vec<_>>(), [5, 301, 2]);
        let capacities: Vec<i32> = places.keys.iter().map(|keys| keys.dim(2)).collect();
        let numbers: Vec<i32> = places.numbers.to_vec_cast().unwrap();
        assert_eq!(numbers[..2], [340, 2]);
        assert_eq!(numbers[8..10], [300, 1]);
        assert_eq!(numbers[16..18], capacities);
        assert_eq!(numbers[24], 2);
        // What was read before is still there, with room behind it.
        assert!(capacities[0] > 300);
        let before = slice(&places.values[0], [0; 4], [1, 2, 300, 8]).unwrap();
        assert!(before.eq_values(noise(&[1, 2, 300, 8], 3002)).unwrap());
        let empty =
            SequenceCaches::new(vec![vec![KvCache::default()]]).next_places(0, 0..1, &[0], 8);
        assert!(empty.is_err());
    }
}
