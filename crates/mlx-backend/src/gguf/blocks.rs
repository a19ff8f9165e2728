//! Blocks of values that share scales, as integers with a scale and a bias for each 32 of them, or as floats.
//!
//! Source: `ggml-common.h` and `ggml-quants.c` of ggml.

use half::f16;

use super::kind::{GROUP, Kind};

/// Values of the largest block.
pub(super) const MAX_BLOCK: usize = 256;

/// The values of a block: `code * scale + bias`, scale and bias those of each [`GROUP`] codes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) codes: [u8; MAX_BLOCK],
    pub(super) scales: [f32; MAX_BLOCK / GROUP],
    pub(super) biases: [f32; MAX_BLOCK / GROUP],
}

impl Default for Block {
    fn default() -> Self {
        let groups = [0.0; MAX_BLOCK / GROUP];
        Self { codes: [0; MAX_BLOCK], scales: groups, biases: groups }
    }
}

impl Block {
    /// Takes the `bytes` of one block of `kind`, which has a packing.
    pub(super) fn read(&mut self, kind: Kind, bytes: &[u8]) {
        match kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 | Kind::Q6K => {}
            Kind::Q4_0 | Kind::Q4_1 | Kind::Q5_0 | Kind::Q5_1 => self.read_nibbles(kind, bytes),
            Kind::Q8_0 => {
                let scale = half(bytes, 0);
                // Two's complement with the sign turned round counts from 0.
                for (code, byte) in self.codes.iter_mut().zip(&bytes[2..]) {
                    *code = byte ^ 0x80;
                }
                (self.scales[0], self.biases[0]) = (scale, -128.0 * scale);
            }
            Kind::Q4K | Kind::Q5K => self.read_k(kind, bytes),
        }
    }

    /// A byte has the code of a value of the first half, and of one of the second.
    fn read_nibbles(&mut self, kind: Kind, bytes: &[u8]) {
        let scale = half(bytes, 0);
        let (bias, rest) = match kind {
            Kind::Q4_0 => (-8.0 * scale, &bytes[2..]),
            Kind::Q5_0 => (-16.0 * scale, &bytes[2..]),
            _ => (half(bytes, 2), &bytes[4..]),
        };
        (self.scales[0], self.biases[0]) = (scale, bias);
        let (fifths, nibbles) = match kind {
            Kind::Q5_0 | Kind::Q5_1 => rest.split_at(4),
            _ => (&[0; 4][..], rest),
        };
        let fifth = |i: usize| fifths[i / 8] >> (i % 8) & 1;
        for (i, byte) in nibbles.iter().enumerate() {
            self.codes[i] = byte & 15 | fifth(i) << 4;
            self.codes[i + 16] = byte >> 4 | fifth(i + 16) << 4;
        }
    }

    /// Eight groups, whose scales and biases are integers of six bits times one of the block's two numbers.
    fn read_k(&mut self, kind: Kind, bytes: &[u8]) {
        let (scale, bias) = (half(bytes, 0), half(bytes, 2));
        let (sixes, rest) = bytes[4..].split_at(12);
        for i in 0..8 {
            let (of_scale, of_bias) = match i {
                0..4 => (sixes[i] & 63, sixes[i + 4] & 63),
                _ => (
                    sixes[i + 4] & 15 | sixes[i - 4] >> 6 << 4,
                    sixes[i + 4] >> 4 | sixes[i] >> 6 << 4,
                ),
            };
            self.scales[i] = scale * f32::from(of_scale);
            self.biases[i] = -bias * f32::from(of_bias);
        }
        let (fifths, nibbles) = match kind {
            Kind::Q5K => rest.split_at(32),
            _ => (&[0; 32][..], rest),
        };
        for (pair, nibbles) in nibbles.chunks_exact(32).enumerate() {
            for (i, byte) in nibbles.iter().enumerate() {
                let fifth = |group: usize| (fifths[i] >> group & 1) << 4;
                self.codes[64 * pair + i] = byte & 15 | fifth(2 * pair);
                self.codes[64 * pair + 32 + i] = byte >> 4 | fifth(2 * pair + 1);
            }
        }
    }
}

/// Writes the values of one block of `kind`, which is not of floats, into `values`.
pub(super) fn values(kind: Kind, bytes: &[u8], values: &mut [f32]) {
    if kind == Kind::Q6K {
        return sixes(bytes, values);
    }
    let mut block = Block::default();
    block.read(kind, bytes);
    for (i, (value, code)) in values.iter_mut().zip(block.codes).enumerate() {
        *value = f32::from(code) * block.scales[i / GROUP] + block.biases[i / GROUP];
    }
}

/// `Q6_K`: four bits of each code, then two, then a scale for each 16 values, then that of the block.
fn sixes(bytes: &[u8], values: &mut [f32]) {
    let (low, rest) = bytes.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, block) = rest.split_at(16);
    let block = half(block, 0);
    for (i, value) in values.iter_mut().enumerate() {
        // Of each 128 values, a byte of `low` has codes that are 64 apart, one of `high` four, 32 apart.
        let (part, at) = (i / 128, i % 128);
        let four = low[64 * part + at % 64] >> (at / 64 * 4) & 15;
        let two = high[32 * part + at % 32] >> (at / 32 * 2) & 3;
        let code = f32::from(four | two << 4) - 32.0;
        *value = block * f32::from(scales[i / 16].cast_signed()) * code;
    }
}

/// Writes `codes` of `bits` bits into `words` as MLX packs them, the first in the lowest bits.
pub(super) fn pack(codes: &[u8], bits: u32, words: &mut [u32]) {
    let mut words = words.iter_mut();
    let (mut waiting, mut count) = (0_u64, 0);
    for &code in codes {
        waiting |= u64::from(code) << count;
        count += bits;
        if count >= 32
            && let Some(word) = words.next()
        {
            *word = waiting as u32;
            waiting >>= 32;
            count -= 32;
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
