//! The specification: one output pixel at a time.

use crate::kernels::{HALF, rounded};
use crate::resize::Axis;

/// Output pixels `from..` of one row: `[input, 3]` to `dst`, `[output - from, 3]`.
pub(super) fn row(axis: &Axis, from: usize, src: &[u8], dst: &mut [u8]) {
    let source = src.as_chunks::<3>().0;
    for (pixel, (start, weights)) in
        dst.as_chunks_mut::<3>().0.iter_mut().zip(axis.taps().skip(from))
    {
        let mut sums = [HALF; 3];
        for (value, &weight) in source[start..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(value) {
                *sum += i32::from(value) * weight;
            }
        }
        *pixel = sums.map(rounded);
    }
}
