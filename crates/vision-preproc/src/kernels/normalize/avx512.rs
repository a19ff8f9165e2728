//! 16 numbers at a time, by the steps that `Table` has found to give its values; see `normalize.rs`.

use std::arch::x86_64::*;

use super::{Store, stream_each, unaligned};
use crate::kernels::Element;
use crate::kernels::element::private::Kind;
use crate::normalize::Steps;

const LANES: usize = 16;

/// # Safety
/// `channels`, `bytes` and `dst` must be of one length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn normalize<T: Element>(
    steps: &Steps,
    channels: &[u8],
    store: Store,
    bytes: &[u8],
    dst: &mut [T],
) {
    let constants = Constants::new(steps);
    // Only whole vectors at multiples of their size can be streamed.
    let head = if store == Store::Streamed { unaligned(dst, LANES * size_of::<T>()) } else { 0 };
    let head = head.min(LANES);
    // SAFETY: `head` is at most the length.
    unsafe { some::<T>(&constants, channels, store, bytes, dst, 0, head) };
    let mut at = head;
    while at + LANES <= dst.len() {
        // SAFETY: 16 numbers from `at` lie within the length.
        unsafe {
            let values = values(&constants, channels, bytes, at, !0);
            let place = dst.as_mut_ptr().add(at);
            match store {
                Store::Cached => write::<T, false>(place, !0, values),
                Store::Streamed => write::<T, true>(place, !0, values),
            }
        }
        at += LANES;
    }
    // SAFETY: what is left lies within the length.
    unsafe { some::<T>(&constants, channels, store, bytes, dst, at, dst.len() - at) };
}

/// # Safety
/// `len`, at most 16, numbers from `at` must lie within the slices.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn some<T: Element>(
    constants: &Constants,
    channels: &[u8],
    store: Store,
    bytes: &[u8],
    dst: &mut [T],
    at: usize,
    len: usize,
) {
    let mask = ((1_u32 << len) - 1) as u16;
    // SAFETY: only the numbers of the mask are read and written.
    unsafe {
        let values = values(constants, channels, bytes, at, mask);
        let place = dst.as_mut_ptr().add(at);
        if store == Store::Streamed && T::KIND == Kind::F32 {
            let mut some = [0; LANES];
            _mm512_storeu_ps(some.as_mut_ptr().cast(), values);
            stream_each(&some[..len], place.cast());
        } else {
            write::<T, false>(place, mask, values);
        }
    }
}

/// The constants of `Steps`, those of three channels in the lanes 0 to 2.
struct Constants {
    factor: [__m512; 2],
    mean: __m512,
    std: __m512,
    inverse: __m512,
}

impl Constants {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(steps: &Steps) -> Self {
        let three = |values: &[f32; 3]| {
            // SAFETY: only the three lanes of the mask are read.
            unsafe { _mm512_maskz_loadu_ps(0b111, values.as_ptr()) }
        };
        Self {
            factor: [_mm512_set1_ps(steps.factor[0]), _mm512_set1_ps(steps.factor[1])],
            mean: three(&steps.mean),
            std: three(&steps.std),
            inverse: three(&steps.inverse),
        }
    }
}

/// # Safety
/// The numbers of `mask` from `at` must lie within the slices.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn values(
    constants: &Constants,
    channels: &[u8],
    bytes: &[u8],
    at: usize,
    mask: u16,
) -> __m512 {
    // SAFETY: the caller's promise.
    let (bytes, channels) = unsafe {
        (
            _mm_maskz_loadu_epi8(mask, bytes.as_ptr().add(at).cast()),
            _mm_maskz_loadu_epi8(mask, channels.as_ptr().add(at).cast()),
        )
    };
    let channels = _mm512_cvtepu8_epi32(channels);
    let mean = _mm512_permutexvar_ps(channels, constants.mean);
    let std = _mm512_permutexvar_ps(channels, constants.std);
    let inverse = _mm512_permutexvar_ps(channels, constants.inverse);
    let byte = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    let [high, low] = constants.factor;
    let scaled = _mm512_fmadd_ps(byte, high, _mm512_mul_ps(byte, low));
    let centred = _mm512_sub_ps(scaled, mean);
    let quotient = _mm512_mul_ps(centred, inverse);
    let rest = _mm512_fnmadd_ps(quotient, std, centred);
    _mm512_fmadd_ps(rest, inverse, quotient)
}

/// # Safety
/// The numbers of `mask` must be writable from `dst`; with `STREAM` all 16, at a multiple of their size.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn write<T: Element, const STREAM: bool>(dst: *mut T, mask: u16, values: __m512) {
    let halves = match T::KIND {
        Kind::F32 => {
            // SAFETY: the caller's promise.
            unsafe {
                if STREAM {
                    _mm512_stream_ps(dst.cast(), values);
                } else {
                    _mm512_mask_storeu_ps(dst.cast(), mask, values);
                }
            }
            return;
        }
        Kind::F16 => _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
        Kind::Bf16 => {
            // To the nearest, ties to even: half a unit is added, and less by one if the last bit is zero.
            let bits = _mm512_castps_si512(values);
            let odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16))
        }
    };
    // SAFETY: the caller's promise.
    unsafe {
        if STREAM {
            _mm256_stream_si256(dst.cast(), halves);
        } else {
            _mm256_mask_storeu_epi16(dst.cast(), mask, halves);
        }
    }
}
