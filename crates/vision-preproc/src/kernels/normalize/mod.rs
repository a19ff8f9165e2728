//! Bytes to normalised numbers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::level::Kind;
use super::{Element, Level};
use crate::normalize::Table;

/// Outputs of this many bytes and more are written past the caches, which they would only empty.
const STREAM_BYTES: usize = 32 << 20;

/// How the results are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Into the caches.
    Cached,
    /// Past the caches; [`Store::finish`] must be called before another thread is told.
    Streamed,
}

impl Store {
    /// What is better for an output of `values`.
    pub(crate) fn of<T>(values: &[T]) -> Self {
        if size_of_val(values) < STREAM_BYTES { Self::Cached } else { Self::Streamed }
    }

    /// Makes what was streamed visible before what is stored next.
    pub(crate) fn finish(self) {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Streamed {
            // SAFETY: SSE is part of every x86_64 processor.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// Looks up `bytes` in `table`; `channels` holds the channel of each, from 0 to 2.
///
/// # Panics
/// If the lengths differ.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused_variables, reason = "there is one way to store")
)]
pub(crate) fn normalize<T: Element>(
    level: Level,
    table: &Table,
    channels: &[u8],
    store: Store,
    bytes: &[u8],
    dst: &mut [T],
) {
    assert_eq!(bytes.len(), dst.len(), "bytes and numbers");
    assert_eq!(bytes.len(), channels.len(), "bytes and their channels");
    let Some(steps) = table.steps() else { return scalar::normalize(table, channels, bytes, dst) };
    match level.0 {
        // SAFETY: the level says that the instructions are there; all slices are of one length.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::normalize(steps, channels, store, bytes, dst) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::normalize(steps, channels, store, bytes, dst) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe { neon::normalize(steps, channels, bytes, dst) },
        Kind::Scalar => scalar::normalize(table, channels, bytes, dst),
    }
}

/// How many numbers come before the first at a multiple of `alignment` bytes, at most `len`.
#[cfg(target_arch = "x86_64")]
fn unaligned<T>(dst: &[T], alignment: usize) -> usize {
    dst.as_ptr().align_offset(alignment).min(dst.len())
}

/// Streams numbers of 32 bits one by one. The first of a run and the last of the run before it make a whole cache line,
/// which would have to be fetched if a part of it were stored into the caches.
///
/// # Safety
/// There must be room for `bits` at `dst`.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_each(bits: &[i32], dst: *mut i32) {
    for (at, &bits) in bits.iter().enumerate() {
        // SAFETY: SSE2 is part of every x86_64 processor; the rest is the caller's promise.
        unsafe { std::arch::x86_64::_mm_stream_si32(dst.add(at), bits) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rescale;
    use crate::kernels::tests::STEP;
    use half::{bf16, f16};

    fn check<T: Element>(table: &Table, same: impl Fn(T, T) -> bool) {
        for len in (0..70).chain([256 * 3, 4704]).step_by(STEP) {
            let channels: Vec<u8> = (0..len).map(|at| (at / 5 % 3) as u8).collect();
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 % 256) as u8).collect();
            for level in Level::available() {
                // Miri knows no stores past the caches.
                let stores = [Store::Cached, Store::Streamed].into_iter();
                for store in stores.take(if cfg!(miri) { 1 } else { 2 }) {
                    // From every place relative to a cache line.
                    let first = len % 16;
                    let mut dst = vec![T::from_f32(9.5); first + len + 1];
                    normalize(level, table, &channels, store, &bytes, &mut dst[first..][..len]);
                    store.finish();
                    for (at, &found) in dst[first..][..len].iter().enumerate() {
                        let value = table.value(at / 5 % 3, bytes[at]);
                        assert!(
                            same(found, T::from_f32(value)),
                            "{level:?}, {store:?}, value {at} of {len}"
                        );
                    }
                    let edges = [dst[..first].to_vec(), vec![dst[first + len]]].concat();
                    assert!(
                        edges.iter().all(|&v| same(v, T::from_f32(9.5))),
                        "{level:?} left its place"
                    );
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_values_of_the_table() {
        let (mean, std) =
            ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
        for rescale in [Rescale::Transformers, Rescale::MlxVlm] {
            let table = Table::new(rescale, 1.0 / 255.0, mean, std);
            assert!(table.steps().is_some(), "the fast way is exact for {rescale:?}");
            check::<f32>(&table, |a, b| a.to_bits() == b.to_bits());
            check::<f16>(&table, |a, b| a.to_bits() == b.to_bits());
            check::<bf16>(&table, |a, b| a.to_bits() == b.to_bits());
        }
    }
}
