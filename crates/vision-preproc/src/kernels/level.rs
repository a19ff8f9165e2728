//! What the processor can do, as a value: holding a level makes the kernels of that level safe to call.

use std::fmt;

/// The instructions that the kernels use; every level gives the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level(pub(super) Kind);

/// Made by [`Level::available`] only, after the features of the variant were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Scalar,
    /// AVX2, FMA, F16C, BMI1, BMI2 and LZCNT: Haswell, Zen and later.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, VL, VBMI and VNNI: Ice Lake, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// Plain Rust: the specification of the others.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// The fastest level of this machine.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::SCALAR)
    }

    /// All levels of this machine, from scalar to the fastest.
    pub fn available() -> impl Iterator<Item = Self> {
        let scalar = Some(Kind::Scalar);
        #[cfg(target_arch = "x86_64")]
        let found = [scalar, avx2(), avx2().and_then(|_| avx512())];
        // NEON is part of every aarch64 target that has the standard library.
        #[cfg(target_arch = "aarch64")]
        let found = [scalar, Some(Kind::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let found = [scalar];
        found.into_iter().flatten().map(Self)
    }
}

// The standard library asks the processor once and remembers.
#[cfg(target_arch = "x86_64")]
fn avx2() -> Option<Kind> {
    use std::is_x86_feature_detected as has;
    let vectors = has!("avx2") && has!("fma") && has!("f16c");
    let bits = has!("bmi1") && has!("bmi2") && has!("lzcnt");
    (vectors && bits).then_some(Kind::Avx2)
}

#[cfg(target_arch = "x86_64")]
fn avx512() -> Option<Kind> {
    use std::is_x86_feature_detected as has;
    let base = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
    (base && has!("avx512vbmi") && has!("avx512vnni")).then_some(Kind::Avx512)
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
