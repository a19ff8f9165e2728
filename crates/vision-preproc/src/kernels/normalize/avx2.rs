//! Eight numbers at a time, by the steps that `Table` has found to give its values; see `normalize.rs`.

use std::arch::x86_64::*;

use super::{Store, stream_each, unaligned};
use crate::kernels::Element;
use crate::kernels::element::private::Kind;
use crate::normalize::Steps;

const LANES: usize = 8;

/// # Safety
/// `channels`, `bytes` and `dst` must be of one length.
#[target_feature(enable = "avx2,fma,f16c")]
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
    let head = head.min(LANES).min(dst.len());
    few(&constants, &channels[..head], store, &bytes[..head], &mut dst[..head]);
    let mut at = head;
    while at + LANES <= dst.len() {
        // SAFETY: eight numbers from `at` lie within the length.
        unsafe {
            let values = values(&constants, channels, bytes, at);
            let place = dst.as_mut_ptr().add(at);
            match store {
                Store::Cached => write::<T, false>(place, values),
                Store::Streamed => write::<T, true>(place, values),
            }
        }
        at += LANES;
    }
    few(&constants, &channels[at..], store, &bytes[at..], &mut dst[at..]);
}

/// Up to eight numbers, through copies of the size of a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<T: Element>(
    constants: &Constants,
    channels: &[u8],
    store: Store,
    bytes: &[u8],
    dst: &mut [T],
) {
    let (mut some, mut their, len) = ([0; LANES], [0; LANES], dst.len());
    some[..len].copy_from_slice(bytes);
    their[..len].copy_from_slice(channels);
    // SAFETY: all arrays hold eight numbers, and no more than `dst` has room for are streamed.
    unsafe {
        let values = values(constants, &their, &some, 0);
        if store == Store::Streamed && T::KIND == Kind::F32 {
            let mut out = [0; LANES];
            _mm256_storeu_ps(out.as_mut_ptr().cast(), values);
            stream_each(&out[..len], dst.as_mut_ptr().cast());
        } else {
            let mut out = [T::from_f32(0.0); LANES];
            write::<T, false>(out.as_mut_ptr(), values);
            dst.copy_from_slice(&out[..len]);
        }
    }
}

/// The constants of `Steps`, those of three channels in the lanes 0 to 2.
struct Constants {
    factor: [__m256; 2],
    mean: __m256,
    std: __m256,
    inverse: __m256,
}

impl Constants {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn new(steps: &Steps) -> Self {
        let three = |[a, b, c]: [f32; 3]| _mm256_setr_ps(a, b, c, 0.0, 0.0, 0.0, 0.0, 0.0);
        Self {
            factor: [_mm256_set1_ps(steps.factor[0]), _mm256_set1_ps(steps.factor[1])],
            mean: three(steps.mean),
            std: three(steps.std),
            inverse: three(steps.inverse),
        }
    }
}

/// # Safety
/// Eight numbers from `at` must lie within the slices.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn values(constants: &Constants, channels: &[u8], bytes: &[u8], at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let (bytes, channels) = unsafe {
        (
            _mm_loadl_epi64(bytes.as_ptr().add(at).cast()),
            _mm_loadl_epi64(channels.as_ptr().add(at).cast()),
        )
    };
    let channels = _mm256_cvtepu8_epi32(channels);
    let mean = _mm256_permutevar8x32_ps(constants.mean, channels);
    let std = _mm256_permutevar8x32_ps(constants.std, channels);
    let inverse = _mm256_permutevar8x32_ps(constants.inverse, channels);
    let byte = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    let [high, low] = constants.factor;
    let scaled = _mm256_fmadd_ps(byte, high, _mm256_mul_ps(byte, low));
    let centred = _mm256_sub_ps(scaled, mean);
    let quotient = _mm256_mul_ps(centred, inverse);
    let rest = _mm256_fnmadd_ps(quotient, std, centred);
    _mm256_fmadd_ps(rest, inverse, quotient)
}

/// # Safety
/// Eight numbers must be writable from `dst`; with `STREAM` at a multiple of their size.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn write<T: Element, const STREAM: bool>(dst: *mut T, values: __m256) {
    let halves = match T::KIND {
        Kind::F32 => {
            // SAFETY: the caller's promise.
            unsafe {
                if STREAM {
                    _mm256_stream_ps(dst.cast(), values);
                } else {
                    _mm256_storeu_ps(dst.cast(), values);
                }
            }
            return;
        }
        Kind::F16 => _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT),
        Kind::Bf16 => {
            // To the nearest, ties to even: half a unit is added, and less by one if the last bit is zero.
            let bits = _mm256_castps_si256(values);
            let odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let halves = _mm256_srli_epi32(rounded, 16);
            _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1))
        }
    };
    // SAFETY: the caller's promise.
    unsafe {
        if STREAM {
            _mm_stream_si128(dst.cast(), halves);
        } else {
            _mm_storeu_si128(dst.cast(), halves);
        }
    }
}
