//! Random weights, made as quickly as a disk takes them.

use std::thread;

/// What a tensor holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    /// bf16 around zero with this deviation.
    Normal(f32),
    /// As `Normal`, rows of this many values each times their [`row_scale`].
    Rows(f32, usize),
    /// bf16, this value in every place of a row times the [`row_scale`] if the flag says so; rows of
    /// this many values.
    Constant(f32, usize, bool),
    /// bf16, 1 or -1.
    Signs,
    /// 32 random bits in each word.
    Words,
}

/// Rows of the vocabulary below this are the real tokens of the small tokenizer; they never win, so
/// that an answer neither ends early nor holds bytes that are no text.
pub(crate) const REAL_TOKENS: usize = 457;

/// Of few rows it is large, so that the likeliest token leads clearly and rounding decides nothing.
pub(crate) fn row_scale(row: usize) -> f32 {
    if row < REAL_TOKENS {
        return 1e-3;
    }
    let mut random = Random::new(0x5eed, row as u64);
    let normal: f32 = (0..12).map(|_| random.unit()).sum::<f32>() - 6.0;
    normal.exp()
}

const CHUNK_BYTES: usize = 1 << 20;

/// Fills the values of tensor number `tensor`, on all cores.
pub(crate) fn fill(bytes: &mut [u8], tensor: usize, how: Fill) {
    let normals = normals();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut lanes: Vec<Vec<(usize, &mut [u8])>> = (0..threads).map(|_| Vec::new()).collect();
    for (i, chunk) in bytes.chunks_mut(CHUNK_BYTES).enumerate() {
        lanes[i % threads].push((i, chunk));
    }
    thread::scope(|scope| {
        for lane in lanes {
            let normals = &normals;
            scope.spawn(move || {
                for (i, chunk) in lane {
                    let random = Random::new(tensor as u64 + 1, i as u64);
                    fill_chunk(chunk, i * CHUNK_BYTES / 2, random, normals, how);
                }
            });
        }
    });
}

/// `first` is the index of the first half word of the chunk in its tensor.
fn fill_chunk(chunk: &mut [u8], first: usize, mut random: Random, normals: &[f32], how: Fill) {
    if let Fill::Words = how {
        for bytes in chunk.chunks_mut(8) {
            bytes.copy_from_slice(&random.next().to_le_bytes()[..bytes.len()]);
        }
        return;
    }
    let (mut bits, mut row, mut scale) = (0, usize::MAX, 1.0);
    for (i, bytes) in chunk.chunks_exact_mut(2).enumerate() {
        if i % 4 == 0 {
            bits = random.next();
        }
        let normal = normals[(bits & 0xffff) as usize];
        bits >>= 16;
        if let Fill::Rows(_, width) | Fill::Constant(_, width, true) = how
            && (first + i) / width != row
        {
            row = (first + i) / width;
            scale = row_scale(row);
        }
        let value = match how {
            Fill::Normal(deviation) => normal * deviation,
            Fill::Rows(deviation, _) => normal * deviation * scale,
            Fill::Constant(value, ..) => value * scale,
            Fill::Signs | Fill::Words => normal.signum(),
        };
        // Rounded to the upper half of an f32, which is a bf16.
        bytes.copy_from_slice(&((value.to_bits() + 0x8000) >> 16).to_le_bytes()[..2]);
    }
}

/// 65536 draws of a normal distribution: twelve uniform ones added.
fn normals() -> Vec<f32> {
    let mut random = Random::new(0, 0);
    (0..1 << 16).map(|_| (0..12).map(|_| random.unit()).sum::<f32>() - 6.0).collect()
}

/// `SplitMix64`. Source: Steele, Lea and Flood, 2014.
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.rotate_left(32));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }
}
