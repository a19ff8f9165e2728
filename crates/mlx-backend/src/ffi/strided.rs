//! The product of matrices in f32, of any layout.

use gemm::{Parallelism, gemm};

/// Where a matrix begins, and how far apart its values are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided<P> {
    pub(super) at: P,
    /// From a row to the next.
    pub(super) row: isize,
    /// From a column to the next.
    pub(super) column: isize,
}

impl<P> Strided<P> {
    /// Rows that begin `width` values apart.
    pub(super) fn rows(at: P, width: usize) -> Self {
        Self { at, row: width as isize, column: 1 }
    }

    /// The same values as columns.
    pub(super) fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// `c = scale a b + keep c` for `a` of `m` x `k` and `b` of `k` x `n`; where `keep` is 0, `c` is not read.
///
/// # Safety
/// The pointers must hold matrices of these sizes, and nobody else may read or write `c` meanwhile.
pub(super) unsafe fn matmul(
    [m, k, n]: [usize; 3],
    a: Strided<*const f32>,
    b: Strided<*const f32>,
    c: Strided<*mut f32>,
    (scale, keep): (f32, f32),
    threads: Parallelism,
) {
    // SAFETY: what the caller promises.
    unsafe {
        gemm(
            m,
            n,
            k,
            c.at,
            c.column,
            c.row,
            keep != 0.0,
            a.at,
            a.column,
            a.row,
            b.at,
            b.column,
            b.row,
            keep,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}
