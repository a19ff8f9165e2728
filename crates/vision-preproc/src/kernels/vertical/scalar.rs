//! The specification: a sum of rows for each output row.

use crate::kernels::{HALF, rounded};

/// Columns that are summed at a time, so that the sums stay in the first cache.
const BLOCK: usize = 256;

/// Columns `from..` of the sum of the rows that begin at `offsets`, times `weights`.
pub(super) fn row(src: &[u8], offsets: &[usize], weights: &[i32], from: usize, dst: &mut [u8]) {
    let mut x = from;
    for block in dst[from..].chunks_mut(BLOCK) {
        let mut sums = [HALF; BLOCK];
        for (at, &weight) in offsets.iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&src[at + x..][..block.len()]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (value, &sum) in block.iter_mut().zip(&sums) {
            *value = rounded(sum);
        }
        x += block.len();
    }
}
