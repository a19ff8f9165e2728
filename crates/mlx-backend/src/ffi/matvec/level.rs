//! What the processor has, asked once.

use std::sync::OnceLock;

use super::{Row, codes::Floats, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// A set of kernels that the processor can run; only [`all`](Self::all) makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Returns what the processor has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self(Kind::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 =
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            all.extend(avx2.then_some(Self(Kind::Avx2)));
            all.extend((avx2 && avx512).then_some(Self(Kind::Avx512)));
        }
        all
    }

    /// Returns the best there is.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().last().copied().unwrap_or(Self(Kind::Scalar)))
    }

    /// `Σ row x`; `row` has the length of `x`.
    pub(super) fn dot(self, row: Floats<'_>, x: &[f32]) -> f32 {
        match self.0 {
            Kind::Scalar => scalar::dot(row, x),
            // SAFETY: the processor has the instructions: `all` asked.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::dot(row, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::dot(row, x) },
        }
    }

    /// `Σ w x` with the weights of a packed row, as many as `x` has, which are whole groups.
    pub(super) fn dot_packed(self, row: &Row<'_>, x: &[f32]) -> f32 {
        match self.0 {
            Kind::Scalar => scalar::dot_packed(row, x),
            // SAFETY: the processor has the instructions: `all` asked.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::dot_packed(row, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::dot_packed(row, x) },
        }
    }

    /// Does `work` with what the processor has; all levels give the same bits.
    pub(in crate::ffi) fn run(self, work: impl Work) {
        match self.0 {
            Kind::Scalar => work.run(),
            // SAFETY: the processor has the instructions: `all` asked.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { run_avx512(work) },
        }
    }

    /// The weights of a packed row, as many as `into` has, which are whole groups.
    pub(super) fn unpack(self, row: &Row<'_>, into: &mut [f32]) {
        match self.0 {
            Kind::Scalar => scalar::unpack(row, into),
            // SAFETY: the processor has the instructions: `all` asked.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::unpack(row, into) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::unpack(row, into) },
        }
    }
}

/// Plain code that is compiled once for each level.
pub(in crate::ffi) trait Work {
    /// To be inlined always, into functions for what a processor has.
    fn run(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(work: impl Work) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn run_avx512(work: impl Work) {
    work.run();
}
