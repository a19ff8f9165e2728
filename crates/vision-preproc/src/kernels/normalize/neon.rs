//! Eight numbers at a time, by the steps that `Table` has found to give its values; see `normalize.rs`.

use std::arch::aarch64::*;

use crate::kernels::Element;
use crate::normalize::Lanes;

const LANES: usize = 8;

/// # Safety
/// `lanes`, `bytes` and `dst` must be of one length.
#[target_feature(enable = "neon")]
pub(super) unsafe fn normalize<T: Element>(
    factor: [f32; 2],
    lanes: Lanes<'_>,
    bytes: &[u8],
    dst: &mut [T],
) {
    let mut at = 0;
    while at + LANES <= dst.len() {
        // SAFETY: eight numbers from `at` lie within the length.
        let values = unsafe { values(factor, lanes, bytes, at) };
        for (value, number) in dst[at..at + LANES].iter_mut().zip(values) {
            *value = T::from_f32(number);
        }
        at += LANES;
    }
    // The rest, through copies of the size of a vector.
    let (mut some, mut parts) = ([0; LANES], [[0.0; LANES]; 3]);
    let len = dst.len() - at;
    some[..len].copy_from_slice(&bytes[at..]);
    for (part, whole) in parts.iter_mut().zip([lanes.mean, lanes.std, lanes.inverse]) {
        part[..len].copy_from_slice(&whole[at..]);
    }
    let [mean, std, inverse] = &parts;
    let lanes = Lanes { channels: &[], mean, std, inverse };
    // SAFETY: all arrays hold eight numbers.
    let values = unsafe { values(factor, lanes, &some, 0) };
    for (value, number) in dst[at..].iter_mut().zip(values) {
        *value = T::from_f32(number);
    }
}

/// # Safety
/// Eight numbers from `at` must lie within the slices.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn values([high, low]: [f32; 2], lanes: Lanes<'_>, bytes: &[u8], at: usize) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: the caller's promise.
    let words = vmovl_u8(unsafe { vld1_u8(bytes.as_ptr().add(at)) });
    let halves = [vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words)];
    for (half, wide) in halves.into_iter().enumerate() {
        let at = at + 4 * half;
        // SAFETY: the caller's promise.
        let (mean, std, inverse) = unsafe {
            (
                vld1q_f32(lanes.mean.as_ptr().add(at)),
                vld1q_f32(lanes.std.as_ptr().add(at)),
                vld1q_f32(lanes.inverse.as_ptr().add(at)),
            )
        };
        let byte = vcvtq_f32_u32(wide);
        let scaled = vfmaq_n_f32(vmulq_n_f32(byte, low), byte, high);
        let centred = vsubq_f32(scaled, mean);
        let quotient = vmulq_f32(centred, inverse);
        let rest = vfmsq_f32(centred, quotient, std);
        // SAFETY: the array has room for two times four numbers.
        unsafe { vst1q_f32(out.as_mut_ptr().add(4 * half), vfmaq_f32(quotient, rest, inverse)) };
    }
    out
}
