//! Weighted sums of rows: the vertical pass of a resize.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::Level;
use super::level::Kind;
use crate::resize::{Axis, AxisKey};

/// The weights of a vertical axis, in the form that the kernel of a level reads.
#[derive(Debug)]
pub(crate) struct Vertical {
    axis: Axis,
    level: Level,
    packed: Vec<i32>,
    /// Numbers of `packed` for each output row.
    stride: usize,
}

impl Default for Vertical {
    fn default() -> Self {
        Self { axis: Axis::default(), level: Level::SCALAR, packed: Vec::new(), stride: 0 }
    }
}

impl Vertical {
    /// Taps are taken in groups of this many; see [`Vertical::row`].
    pub(crate) const GROUP: usize = 4;

    /// Makes the tables for `key`, unless they are there.
    pub(crate) fn set(&mut self, level: Level, key: AxisKey) {
        if !self.axis.set(key) && level == self.level {
            return;
        }
        self.level = level;
        self.packed.clear();
        self.stride = match level.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::pack(&self.axis, &mut self.packed),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::pack(&self.axis, &mut self.packed),
            _ => 0,
        };
    }

    pub(crate) fn axis(&self) -> &Axis {
        &self.axis
    }

    /// Output row `y`: the sum of its taps, which begin at `offsets` in `src` and are as long as `dst`.
    ///
    /// # Panics
    /// If a row leaves `src`, or `offsets` does not hold the taps of row `y`, rounded up to a multiple of
    /// [`Self::GROUP`]; what is there beyond the taps must be a row, but has no weight.
    pub(crate) fn row(&self, y: usize, src: &[u8], offsets: &[usize], dst: &mut [u8]) {
        let weights = self.axis.taps_of(y).1;
        assert_eq!(offsets.len(), weights.len().next_multiple_of(Self::GROUP), "taps of row {y}");
        let inside = offsets.iter().all(|at| at + dst.len() <= src.len());
        assert!(inside, "rows at {offsets:?} in {} bytes", src.len());
        #[cfg(target_arch = "x86_64")]
        let packed = &self.packed[y * self.stride..][..self.stride];
        match self.level.0 {
            Kind::Scalar => scalar::row(src, offsets, weights, 0, dst),
            // SAFETY: the level says that the instructions are there; all rows lie in `src`, as asserted.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::row(src, offsets, packed, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::row(src, offsets, weights, packed, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::row(src, offsets, weights, dst) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{STEP, bytes, filters};

    #[test]
    fn every_level_equals_the_specification() {
        for (input, output) in [(1, 1), (1, 3), (5, 7), (40, 33), (64, 17), (300, 7)] {
            for len in [1, 2, 31, 32, 33, 63, 64, 65, 300].into_iter().step_by(STEP.min(3)) {
                let src = bytes(input as usize * len);
                for (filter, flipped) in filters() {
                    let mut expected = Vec::new();
                    for level in Level::available() {
                        let mut axis = Vertical::default();
                        axis.set(
                            level,
                            AxisKey { input, reduction: 1, output, filter, flipped, short: false },
                        );
                        let mut dst = vec![1; output as usize * len];
                        for (y, dst) in dst.chunks_exact_mut(len).enumerate() {
                            let (start, weights) = axis.axis().taps_of(y);
                            let rows = start..start + weights.len();
                            let mut offsets: Vec<usize> = rows.map(|row| row * len).collect();
                            offsets.resize(weights.len().next_multiple_of(Vertical::GROUP), 0);
                            axis.row(y, &src, &offsets, dst);
                        }
                        if expected.is_empty() {
                            expected = dst;
                        } else {
                            assert!(dst == expected, "{level:?}, {len} bytes, {:?}", axis.axis);
                        }
                    }
                }
            }
        }
    }
}
