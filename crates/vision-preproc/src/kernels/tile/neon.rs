//! A row of up to 16 pixels at a time, parted into channels by the load.

use std::arch::aarch64::*;

use super::scalar;

const LANES: usize = 16;

/// `side` is from 8 to 16.
#[target_feature(enable = "neon")]
pub(super) fn planes(src: &[u8], stride: usize, side: usize, frames: usize, dst: &mut [u8]) {
    if src.len() < (side - 1) * stride + 3 * LANES {
        return scalar::planes(src, stride, side, frames, dst);
    }
    let plane = side * side;
    for y in 0..side {
        let row = &src[y * stride..][..3 * LANES];
        let mut channels = [[0; LANES]; 3];
        // SAFETY: a row has three times 16 bytes, and an array 16.
        unsafe {
            let values = vld3q_u8(row.as_ptr());
            vst1q_u8(channels[0].as_mut_ptr(), values.0);
            vst1q_u8(channels[1].as_mut_ptr(), values.1);
            vst1q_u8(channels[2].as_mut_ptr(), values.2);
        }
        for (channel, line) in channels.iter().enumerate() {
            for frame in 0..frames {
                let at = (channel * frames + frame) * plane + y * side;
                dst[at..at + side].copy_from_slice(&line[..side]);
            }
        }
    }
}
