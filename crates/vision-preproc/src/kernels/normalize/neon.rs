//! Eight numbers at a time, by the steps that `Table` has found to give its values; see `normalize.rs`.

use std::arch::aarch64::*;

use crate::kernels::Element;
use crate::normalize::Steps;

const LANES: usize = 8;

/// # Safety
/// `channels`, `bytes` and `dst` must be of one length.
#[target_feature(enable = "neon")]
pub(super) unsafe fn normalize<T: Element>(
    steps: &Steps,
    channels: &[u8],
    bytes: &[u8],
    dst: &mut [T],
) {
    let channels = channels.chunks(LANES);
    for ((bytes, channels), dst) in bytes.chunks(LANES).zip(channels).zip(dst.chunks_mut(LANES)) {
        // The last may be shorter than a vector.
        let (mut some, mut their) = ([0; LANES], [0; LANES]);
        some[..bytes.len()].copy_from_slice(bytes);
        their[..bytes.len()].copy_from_slice(channels);
        for (value, number) in dst.iter_mut().zip(values(steps, &their, &some)) {
            *value = T::from_f32(number);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn values(steps: &Steps, channels: &[u8; LANES], bytes: &[u8; LANES]) -> [f32; LANES] {
    // SAFETY: both arrays have eight bytes.
    let (bytes, channels) =
        unsafe { (vmovl_u8(vld1_u8(bytes.as_ptr())), vmovl_u8(vld1_u8(channels.as_ptr()))) };
    let [low, high] = [
        (vmovl_u16(vget_low_u16(bytes)), vmovl_u16(vget_low_u16(channels))),
        (vmovl_high_u16(bytes), vmovl_high_u16(channels)),
    ];
    let mut out = [0.0; LANES];
    // SAFETY: the array has room for two times four numbers.
    unsafe {
        vst1q_f32(out.as_mut_ptr(), four(steps, low.0, low.1));
        vst1q_f32(out.as_mut_ptr().add(4), four(steps, high.0, high.1));
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn four(steps: &Steps, bytes: uint32x4_t, channels: uint32x4_t) -> float32x4_t {
    // The places of the four bytes of a number among those of three.
    let places = vmlaq_n_u32(vdupq_n_u32(0x0302_0100), channels, 0x0404_0404);
    let of_channel = |[a, b, c]: [f32; 3]| {
        // SAFETY: the array has four numbers.
        let numbers = unsafe { vld1q_f32([a, b, c, 0.0].as_ptr()) };
        let found = vqtbl1q_u8(vreinterpretq_u8_f32(numbers), vreinterpretq_u8_u32(places));
        vreinterpretq_f32_u8(found)
    };
    let (std, inverse) = (of_channel(steps.std), of_channel(steps.inverse));
    let byte = vcvtq_f32_u32(bytes);
    let scaled = vfmaq_n_f32(vmulq_n_f32(byte, steps.factor[1]), byte, steps.factor[0]);
    let centred = vsubq_f32(scaled, of_channel(steps.mean));
    let quotient = vmulq_f32(centred, inverse);
    let rest = vfmsq_f32(centred, quotient, std);
    vfmaq_f32(quotient, rest, inverse)
}
