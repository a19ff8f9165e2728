//! The specification: one block in plain Rust.
//!
//! Points of both lengths are scaled as those of the whole transform are, so that the shifts are the same. Of four
//! points the factor of the coefficient 2 is then 1, and of two points there are no factors at all.

use super::super::scalar::{EXTRA, POINT, descale, range_limit};

/// sqrt(2) cos(pi / 8) and sqrt(2) cos(3 pi / 8).
pub(super) const ODD: [i16; 2] = [10703, 4433];

/// Dequantises the first 4 by 4 coefficients of a block, and transforms them.
pub(super) fn four(coefficients: &[i16; 64], quant: &[i16; 64]) -> [[u8; 4]; 4] {
    let mut rows = [[0; 4]; 4];
    for x in 0..4 {
        let at = |y: usize| i64::from(coefficients[y * 8 + x]) * i64::from(quant[y * 8 + x]);
        for (row, value) in rows.iter_mut().zip(points(std::array::from_fn(at))) {
            row[x] = descale(value, POINT - EXTRA);
        }
    }
    rows.map(|row| points(row).map(|value| range_limit(descale(value, POINT + EXTRA + 3))))
}

/// Four points of the inverse DCT, scaled up by sqrt(8) and 2^13.
fn points(from: [i64; 4]) -> [i64; 4] {
    let [a, b] = ODD.map(i64::from);
    let even = [(from[0] + from[2]) << POINT, (from[0] - from[2]) << POINT];
    let odd = [from[1] * a + from[3] * b, from[1] * b - from[3] * a];
    [even[0] + odd[0], even[1] + odd[1], even[1] - odd[1], even[0] - odd[0]]
}

/// Dequantises the first 2 by 2 coefficients of a block, and transforms them.
pub(super) fn two(coefficients: &[i16; 64], quant: &[i16; 64]) -> [[u8; 2]; 2] {
    let [a, b, c, d] = [0, 1, 8, 9].map(|at| i64::from(coefficients[at]) * i64::from(quant[at]));
    let sample = |sum| range_limit(descale(sum, 3));
    [[sample(a + b + c + d), sample(a - b + c - d)], [sample(a + b - c - d), sample(a - b - c + d)]]
}
