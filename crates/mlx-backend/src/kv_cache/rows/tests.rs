//! Sequences that are read together against each by itself.

use super::*;

const LAYERS: usize = 2;
const HEADS: i32 = 4;
const KEY_HEADS: i32 = 2;
const D: i32 = 8;

/// Numbers from -1 to 1, the same ones in every run.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    fn array(&mut self, shape: &[i32]) -> Array {
        let count: i32 = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|_| self.next() as f32 / (1 << 23) as f32 - 1.0).collect();
        Array::from_slice(&values, shape)
    }
}

const HOW: Attention = Attention { scale: 0.3, fused: false, window: None, together: false };

/// A sequence of `tokens` random tokens.
fn sequence(random: &mut Random, tokens: i32) -> Vec<KvCache> {
    let shape = [1, KEY_HEADS, tokens, D];
    let mut layer = || KvCache::Plain(PlainCache::of(random.array(&shape), random.array(&shape)));
    (0..LAYERS).map(|_| layer()).collect()
}

/// A batch, and the same sequences by themselves, in its order.
struct Both {
    rows: RowCaches,
    alone: Vec<Vec<KvCache>>,
    random: Random,
}

impl Both {
    fn new(backend: Backend) -> Self {
        Self { rows: RowCaches::new(backend), alone: Vec::new(), random: Random(7) }
    }

    fn change(&mut self, stays: impl Fn(usize) -> bool, join: &[i32]) {
        let new: Vec<_> = join.iter().map(|&tokens| sequence(&mut self.random, tokens)).collect();
        let stays: Vec<bool> = (0..self.alone.len()).map(stays).collect();
        let order = self.rows.change(&stays, new.clone()).unwrap();
        let all: Vec<_> = self.alone.drain(..).chain(new).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let expected = (0..all.len()).filter(|&i| stays.get(i).is_none_or(|&stays| stays));
        assert_eq!(sorted, expected.collect::<Vec<_>>(), "every row once");
        self.alone = order.into_iter().map(|i| all[i].clone()).collect();
        assert_eq!(self.rows.bytes().count(), self.alone.len());
    }

    /// Reads `steps` tokens and compares what is attended to.
    fn step(&mut self, steps: usize) {
        for _ in 0..steps {
            self.rows.begin_step().unwrap();
            for layer in 0..LAYERS {
                let b = self.alone.len() as i32;
                let queries = self.random.array(&[b, HEADS, 1, D]);
                let keys = self.random.array(&[b, KEY_HEADS, 1, D]);
                let values = self.random.array(&[b, KEY_HEADS, 1, D]);
                let found = self.rows.attend(layer, &queries, (&keys, &values), HOW).unwrap();
                assert_eq!(found.shape(), [b, HEADS, 1, D]);
                for (row, caches) in (0..).zip(&mut self.alone) {
                    let of =
                        |x: &Array| slice(x, [row, 0, 0, 0], [row + 1, x.dim(1), 1, D]).unwrap();
                    let new = (&of(&keys), &of(&values));
                    let expected = caches.attend(layer, &of(&queries), new, HOW).unwrap();
                    let close = of(&found).all_close(&expected, 1e-6, 1e-6, None).unwrap();
                    assert!(close, "row {row} of {b}, {} tokens", caches[0].offset());
                }
            }
            self.rows.end_step();
        }
        self.compare();
    }

    /// Compares what is held of each row, which must be equal to the bit.
    fn compare(&self) {
        let lengths: Vec<i32> = self.alone.iter().map(|caches| caches[0].offset()).collect();
        assert_eq!(self.rows.lengths().collect::<Vec<_>>(), lengths);
        for (row, expected) in self.alone.iter().enumerate() {
            let found = self.rows.row(row).unwrap();
            let all = 0..expected[0].offset() as usize;
            let of = |caches: &[KvCache]| KvCache::copy_range(caches, all.clone()).unwrap();
            assert!(of(&found).eq_values(of(expected)).unwrap(), "row {row}");
        }
        assert!(self.rows.row(self.alone.len()).is_err());
    }
}

#[test]
fn rows_attend_as_they_do_alone_while_others_come_and_go() {
    // Sliced to their end, and whole with a longer mask.
    for backend in [Backend::Cpu, Backend::Cuda] {
        let mut both = Both::new(backend);
        both.change(|_| true, &[5, 9, 9]);
        both.step(3);
        // Longer than all before, and one of another group.
        both.change(|_| true, &[40, 700]);
        both.step(3);
        both.change(|row| row % 2 == 0, &[]);
        both.step(2);
        // Across the end of the buffers.
        both.change(|_| true, &[250, 1, 255]);
        both.step(20);
        both.change(|row| row != 0, &[2]);
        both.step(2);
        both.change(|_| false, &[3, 3]);
        both.step(2);
        both.change(|_| false, &[]);
        assert_eq!(both.rows.lengths().count(), 0);
    }
}

#[test]
fn what_does_not_change_is_not_copied() {
    let mut both = Both::new(Backend::Cpu);
    both.change(|_| true, &[2000, 1900, 20]);
    both.step(1);
    let held = |rows: &RowCaches, group: usize| {
        rows.groups[group].layers[0].as_ref().map(|(keys, _)| keys.as_ptr().ctx as usize)
    };
    let before = held(&both.rows, 0);
    assert_eq!(both.rows.groups.len(), 2);
    both.change(|_| true, &[30]);
    assert_eq!(held(&both.rows, 0), before);
    both.change(|row| row != 1, &[]);
    assert_ne!(held(&both.rows, 0), before);
    both.step(1);
}

#[test]
fn scores_are_done_in_pieces_where_they_would_be_many() {
    // Five queries over 700 000 keys are 14 MB of scores: two rows at a time.
    let mut random = Random(3);
    let keys = random.array(&[3, 1, 700_000, 2]);
    let queries = random.array(&[3, 1, 5, 2]);
    let how = |fused| Attention { scale: 0.5, fused, window: None, together: false };
    let pieces = attend_masked(&queries, (&keys, &keys), None, how(false)).unwrap();
    let whole = attend_masked(&queries, (&keys, &keys), None, how(true)).unwrap();
    assert!(pieces.all_close(&whole, 1e-5, 1e-6, None).unwrap());
}

#[test]
fn groups_are_of_about_one_length_and_stay_so() {
    let lengths = [10, 3000, 240, 2100, 5000, 1, 1900, 3300];
    let parts = partition((0..lengths.len()).collect(), |row| lengths[row]);
    let by_length: Vec<Vec<i32>> =
        parts.iter().map(|part| part.iter().map(|&row| lengths[row]).collect()).collect();
    assert_eq!(by_length, [vec![5000], vec![3300, 3000], vec![2100, 1900], vec![240, 10, 1]]);
    for (longest, shortest) in [(3300u32, 3000u32), (240, 1)] {
        for grown in [0, 1, 500, 10_000] {
            assert!(longest + grown <= padded_tokens(shortest + grown));
        }
    }
}
