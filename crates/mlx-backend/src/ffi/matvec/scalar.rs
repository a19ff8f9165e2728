//! The definition, for processors without the others.

use super::{
    Row,
    codes::{Codes, E2M1, Floats, bf16, e4m3, f16},
};

/// Sums that are kept apart, so that a compiler can make vectors of them.
const LANES: usize = 16;

/// `Σ row x`.
pub(super) fn dot(row: Floats<'_>, x: &[f32]) -> f32 {
    match row {
        Floats::F32(row) => sum(row.iter().copied().zip(x)),
        Floats::Bf16(row) => sum(row.iter().map(|&bits| bf16(bits)).zip(x)),
        Floats::F16(row) => sum(row.iter().map(|&bits| f16(bits)).zip(x)),
        Floats::Bytes(row) => sum(row.iter().map(|&byte| f32::from(byte)).zip(x)),
    }
}

fn sum<'a>(pairs: impl Iterator<Item = (f32, &'a f32)>) -> f32 {
    let mut sums = [0.0; LANES];
    pairs.enumerate().for_each(|(i, (w, x))| sums[i % LANES] += w * x);
    sums.iter().sum()
}

/// `Σ w x` with the weights of a packed row.
pub(super) fn dot_packed(row: &Row<'_>, x: &[f32]) -> f32 {
    sum((0..x.len()).map(|i| weight(row, i)).zip(x))
}

/// The weights of a packed row.
pub(super) fn unpack(row: &Row<'_>, into: &mut [f32]) {
    into.iter_mut().enumerate().for_each(|(i, w)| *w = weight(row, i));
}

fn weight(row: &Row<'_>, i: usize) -> f32 {
    let (code, group) = (code(row, i), i / row.group);
    let scale = row.scales[group];
    match row.codes {
        Codes::Integers(_) => f32::from(code) * scale + row.biases[group],
        Codes::Mxfp4 | Codes::Nvfp4 => E2M1[usize::from(code)] * scale,
        Codes::Mxfp8 => e4m3(code) * scale,
    }
}

/// The code at `i`: the bits of a row are one stream, the lowest of a byte first.
fn code(row: &Row<'_>, i: usize) -> u8 {
    let bits = row.codes.bits();
    let at = i * bits;
    let byte = |i: usize| u16::from(row.bytes.get(i).copied().unwrap_or(0));
    let both = byte(at / 8) | byte(at / 8 + 1) << 8;
    (both >> (at % 8)) as u8 & (0xff >> (8 - bits))
}
