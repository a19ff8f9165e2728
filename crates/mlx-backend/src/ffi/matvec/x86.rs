//! Where the codes of packed weights are, for vectors of any width.

use std::arch::x86_64::{__m128i, _mm_loadu_si128};

/// What codes are: whole numbers, or floats.
pub(super) const INTEGERS: bool = false;
pub(super) const FLOATS: bool = true;

/// The 16 bytes from `at` on, of which `step` count.
#[inline]
pub(super) fn stream(bytes: &[u8], at: usize, step: usize) -> __m128i {
    match bytes.get(at..at + 16) {
        // SAFETY: sixteen bytes, and SSE2 is part of x86-64.
        Some(whole) => unsafe { _mm_loadu_si128(whole.as_ptr().cast()) },
        // The end of the matrix.
        None => {
            let mut padded = [0; 16];
            padded[..step].copy_from_slice(&bytes[at..at + step]);
            // SAFETY: as above.
            unsafe { _mm_loadu_si128(padded.as_ptr().cast()) }
        }
    }
}

/// Where the codes from `first` on are, for `LANES` lanes of four bytes: the two bytes of each lane
/// that hold one, and its lowest bit there. `BYTES` is four times `LANES`.
pub(super) const fn places<const BITS: usize, const BYTES: usize, const LANES: usize>(
    first: usize,
) -> ([u8; BYTES], [u32; LANES]) {
    // A number with the highest bit set makes a byte of zero.
    let (mut bytes, mut shifts) = ([0x80; BYTES], [0; LANES]);
    let mut lane = 0;
    while lane < LANES {
        let bit = (first + lane) * BITS;
        bytes[4 * lane] = (bit / 8) as u8;
        if bit % 8 + BITS > 8 {
            bytes[4 * lane + 1] = (bit / 8) as u8 + 1;
        }
        shifts[lane] = (bit % 8) as u32;
        lane += 1;
    }
    (bytes, shifts)
}
