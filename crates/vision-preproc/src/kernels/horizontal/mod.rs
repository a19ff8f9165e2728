//! Weighted sums of the pixels of a row: the horizontal pass of a resize.

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

/// The weights of a horizontal axis, in the form that the kernel of a level reads.
#[derive(Debug)]
pub(crate) struct Horizontal {
    axis: Axis,
    level: Level,
    #[cfg(target_arch = "x86_64")]
    avx2: avx2::Table,
    #[cfg(target_arch = "x86_64")]
    avx512: avx512::Table,
}

impl Default for Horizontal {
    fn default() -> Self {
        Self {
            axis: Axis::default(),
            level: Level::SCALAR,
            #[cfg(target_arch = "x86_64")]
            avx2: avx2::Table::default(),
            #[cfg(target_arch = "x86_64")]
            avx512: avx512::Table::default(),
        }
    }
}

impl Horizontal {
    /// Bytes that kernels like to find after the last row; without them they do its last pixels slowly.
    pub(crate) const SLACK: usize = 256;

    /// Makes the tables for `key`, unless they are there.
    pub(crate) fn set(&mut self, level: Level, key: AxisKey) {
        if !self.axis.set(key) && level == self.level {
            return;
        }
        self.level = level;
        match level.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => self.avx512.fill(&self.axis),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => self.avx2.fill(&self.axis),
            _ => {}
        }
    }

    pub(crate) fn axis(&self) -> &Axis {
        &self.axis
    }

    /// `rows` rows: `[rows, input, 3]` at the beginning of `src` to `dst`, `[rows, output, 3]`.
    ///
    /// # Panics
    /// If `src` is shorter or `dst` is of another length.
    pub(crate) fn rows(&mut self, src: &[u8], rows: usize, dst: &mut [u8]) {
        let (from, to) = (self.axis.input() * 3, self.axis.output() * 3);
        assert!(src.len() >= rows * from, "{rows} rows of {from} bytes in {}", src.len());
        assert_eq!(dst.len(), rows * to, "{rows} resized rows of {to} bytes");
        match self.level.0 {
            Kind::Scalar => {
                for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(to)) {
                    scalar::row(&self.axis, 0, src, dst);
                }
            }
            // SAFETY: the level says that the instructions are there.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::rows(&self.axis, &mut self.avx512, src, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::rows(&self.axis, &self.avx2, src, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::rows(&self.axis, src, dst) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{bytes, filters};

    /// Sides, scales and numbers of rows that reach every shape of table and every remainder.
    const CASES: [(u32, u32, usize); 12] = [
        (1, 1, 1),
        (1, 7, 2),
        (7, 1, 5),
        (9, 23, 4),
        (100, 101, 9),
        (644, 640, 5),
        (97, 28, 8),
        (350, 100, 7),
        (500, 61, 6),
        (900, 64, 4),
        (1000, 33, 5),
        (4000, 17, 1),
    ];

    #[test]
    fn every_level_equals_the_specification() {
        // Miri sees the smaller half.
        for (input, output, rows) in CASES.into_iter().take(if cfg!(miri) { 5 } else { 12 }) {
            for (filter, flipped) in filters() {
                let key = AxisKey { input, reduction: 1, output, filter, flipped, short: false };
                let src = bytes(rows * input as usize * 3 + Horizontal::SLACK);
                let mut expected = Vec::new();
                for level in Level::available() {
                    let mut axis = Horizontal::default();
                    axis.set(level, key);
                    // With and without room after the last row.
                    for src in [&src[..], &src[..rows * input as usize * 3]] {
                        let mut dst = vec![1; rows * output as usize * 3];
                        axis.rows(src, rows, &mut dst);
                        if expected.is_empty() {
                            expected = dst;
                        } else {
                            assert!(dst == expected, "{level:?}, {rows} rows, {key:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_flipped_axis_gives_the_mirror_image() {
        let (rows, src) = (3, bytes(3 * 100 * 3));
        let mirrored = |rows: &[u8], width: usize| -> Vec<u8> {
            let rows = rows.chunks_exact(width * 3);
            rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten().copied()).collect()
        };
        for (filter, _) in filters() {
            let resized = |src: &[u8], flipped| {
                let mut axis = Horizontal::default();
                axis.set(
                    Level::SCALAR,
                    AxisKey { input: 100, reduction: 1, output: 37, filter, flipped, short: false },
                );
                let mut dst = vec![0; rows * 37 * 3];
                axis.rows(src, rows, &mut dst);
                dst
            };
            assert_eq!(mirrored(&resized(&mirrored(&src, 100), true), 37), resized(&src, false));
        }
    }
}
