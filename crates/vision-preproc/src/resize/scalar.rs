//! The specification: one output value at a time.

use super::weights::{Axis, PRECISION_BITS};
use crate::RgbView;

/// Half a unit, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// `[h, w, 3]` to `[h, axis, 3]`.
pub(super) fn horizontal(src: RgbView<'_>, axis: &Axis, dst: &mut [u8]) {
    let stride = dst.len() / src.height() as usize;
    for (y, row) in dst.chunks_exact_mut(stride).enumerate() {
        let source = src.row(y).as_chunks::<3>().0;
        for (pixel, (start, weights)) in row.as_chunks_mut::<3>().0.iter_mut().zip(axis.taps()) {
            let mut sums = [HALF; 3];
            for (value, &weight) in source[start..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(value) {
                    *sum += i32::from(value) * weight;
                }
            }
            *pixel = sums.map(rounded);
        }
    }
}

/// `[h, w, 3]` to `[axis, w, 3]`.
pub(super) fn vertical(src: RgbView<'_>, axis: &Axis, dst: &mut [u8]) {
    let stride = src.width() as usize * 3;
    let mut sums = vec![0; stride];
    for (row, (start, weights)) in dst.chunks_exact_mut(stride).zip(axis.taps()) {
        sums.fill(HALF);
        for (tap, &weight) in weights.iter().enumerate() {
            for (sum, &value) in sums.iter_mut().zip(src.row(start + tap)) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in row.iter_mut().zip(&sums) {
            *value = rounded(sum);
        }
    }
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}
