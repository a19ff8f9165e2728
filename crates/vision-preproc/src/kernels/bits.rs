//! Plain code, compiled once more for processors whose shifts take one step instead of three.

use super::Level;
#[cfg(target_arch = "x86_64")]
use super::level::Kind;

/// Work that has shifts by variable amounts in its inner loop.
pub(crate) trait BitWork {
    type Output;

    /// Must be `#[inline(always)]`: only what is inlined gets the instructions.
    fn run(self) -> Self::Output;
}

/// Runs `work` with BMI2 where there is that, which changes nothing but its speed.
pub(crate) fn with_bit_instructions<W: BitWork>(level: Level, work: W) -> W::Output {
    match level.0 {
        // SAFETY: both levels say that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 => unsafe { bmi(work) },
        _ => work.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2,lzcnt")]
fn bmi<W: BitWork>(work: W) -> W::Output {
    work.run()
}
