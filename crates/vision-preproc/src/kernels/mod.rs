//! The inner loops, for each instruction set; the only unsafe code of the crate beside libjpeg.
//!
//! One operation is one folder: `mod.rs` says what it does, checks lengths and picks the instructions by [`Level`],
//! `scalar.rs` is the specification, and the other files hold the same function for one instruction set. Tests run
//! every level of the machine against the specification.

#![allow(
    unsafe_code,
    reason = "intrinsics read and write through pointers, and need their processor"
)]

mod bits;
mod element;
mod horizontal;
pub(crate) mod idct;
mod level;
mod memory;
mod normalize;
mod tile;
mod turn;
pub(crate) mod upsample;
mod vertical;
pub(crate) mod ycc;
mod zeroed;

pub use element::Element;
pub use level::Level;

pub(crate) use bits::{BitWork, with_bit_instructions};
pub(crate) use horizontal::Horizontal;
pub(crate) use memory::advise_huge_pages;
pub(crate) use normalize::{Store, normalize};
pub(crate) use tile::planes;
pub(crate) use turn::turn;
pub(crate) use vertical::Vertical;
pub(crate) use zeroed::{Zeroed, zeroed};

use crate::resize::PRECISION_BITS;

/// Half a unit, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// `weight` as three signed bytes: `d[0] + d[1] * 2^8 + d[2] * 2^16`.
///
/// Products with bytes and their sums can then be made by instructions for bytes: three sums, shifted and added, are
/// the sum of the whole products modulo 2^32, and that sum fits 32 bits.
#[cfg(target_arch = "x86_64")]
fn digits(weight: i32) -> [i8; 3] {
    let low = weight as i8;
    let rest = (weight - i32::from(low)) >> 8;
    let middle = rest as i8;
    let high = (rest - i32::from(middle)) >> 8;
    // Weights of a position sum to 2^22, and none of our filters has one above 1.25 times that, even at an edge.
    [low, middle, i8::try_from(high).expect("a weight below 2^23")]
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::digits;
    use crate::Filter;

    /// Every how many cases are tried: Miri is some thousand times slower.
    pub(crate) const STEP: usize = if cfg!(miri) { 40 } else { 1 };

    /// Noise, with stretches of the extreme values, which overshoot most.
    pub(super) fn bytes(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        (0..len)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match (state >> 60, at / 50 % 3) {
                    (0..12, 0) => 0,
                    (0..12, 1) => 255,
                    _ => (state >> 40) as u8,
                }
            })
            .collect()
    }

    /// Every filter, the right way round and flipped.
    pub(super) fn filters() -> impl Iterator<Item = (Filter, bool)> {
        use Filter::*;
        let all = [Box, Bilinear, Hamming, Bicubic, Lanczos];
        all.into_iter().flat_map(|filter| [(filter, false), (filter, true)])
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn digits_make_the_weight() {
        let most = (127 << 16) + (127 << 8) + 127;
        for weight in [0, 1, 127, 128, 255, 256, 32_767, 32_768, 1 << 22, most] {
            for weight in [weight, -weight] {
                let [low, middle, high] = digits(weight).map(i32::from);
                assert_eq!((high << 16) + (middle << 8) + low, weight);
            }
        }
    }
}
