//! The matrix product of f32 on Linux CPUs. MLX's wheel brings the reference BLAS, a hundred times
//! slower than what a processor can do; this stands in for it.

use std::ffi::c_int;

use gemm::Parallelism;

use super::strided::{Strided, matmul};

/// `layout` of CBLAS: the values of a row lie side by side.
const ROW_MAJOR: c_int = 101;
/// `trans` of CBLAS: the matrix as it is.
const AS_IT_IS: c_int = 111;
/// Multiplications below which waking other threads takes longer than it saves.
const SMALL: usize = 1 << 18;

/// Has MLX call [`sgemm`] from now on; without it, everything works, slowly.
pub(super) fn replace() {
    // SAFETY: `sgemm` computes what CBLAS says and touches only what it is given.
    if let Err(error) = unsafe { mlx_sys::linux::replace_sgemm(sgemm) } {
        tracing::warn!(%error, "matrix products stay slow");
    }
}

/// `c = alpha * op(a) * op(b) + beta * c`, with `op(a)` of `m` x `k` and `op(b)` of `k` x `n`.
///
/// # Safety
/// The pointers must hold matrices of these sizes, and `c` must not overlap the others.
unsafe extern "C" fn sgemm(
    layout: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
) {
    let rows = |at: *const f32, ld: c_int, trans: c_int| {
        let rows = Strided::rows(at, ld.max(0) as usize);
        // Transposing swaps strides, and so does the other layout.
        if (layout == ROW_MAJOR) == (trans == AS_IT_IS) { rows } else { rows.transposed() }
    };
    let to = rows(c, ldc, AS_IT_IS);
    let to = Strided { at: c, row: to.row, column: to.column };
    let (m, n, k) = (m.max(0) as usize, n.max(0) as usize, k.max(0) as usize);
    let threads = if m * n * k < SMALL { Parallelism::None } else { Parallelism::Rayon(0) };
    let (a, b) = (rows(a, lda, trans_a), rows(b, ldb, trans_b));
    // SAFETY: what the caller promises.
    unsafe { matmul([m, k, n], a, b, to, (alpha, beta), threads) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::noise;

    const TRANSPOSED: c_int = 112;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        noise(count, seed).into_iter().map(|v| v / 2.0).collect()
    }

    /// Every combination of transposition, layout and beta, at sizes around the kernels' tiles.
    #[test]
    fn equals_the_definition() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 64, 33), (64, 1, 80), (70, 90, 65)] {
            for case in 0..16 {
                let row_major = case & 1 == 0;
                let trans = |bit: i32| if case & bit == 0 { AS_IT_IS } else { TRANSPOSED };
                let (trans_a, trans_b) = (trans(2), trans(4));
                let beta = if case & 8 == 0 { 0.0 } else { 0.5 };
                // Leading dimensions one larger than they must be.
                let lead = |rows: usize, columns: usize, trans: c_int| {
                    1 + if (trans == AS_IT_IS) == row_major { columns } else { rows }
                };
                let (lda, ldb, ldc) =
                    (lead(m, k, trans_a), lead(k, n, trans_b), lead(m, n, AS_IT_IS));
                let at = |row: usize, column: usize, ld: usize, trans: c_int| {
                    if (trans == AS_IT_IS) == row_major {
                        row * ld + column
                    } else {
                        column * ld + row
                    }
                };
                let side = m.max(n).max(k);
                let size = (side + 1) * (side + 1);
                let (a, b, mut c) = (values(size, 1), values(size, 2), values(size, 3));
                if beta == 0.0 {
                    c.fill(f32::NAN);
                }
                let before = c.clone();
                // SAFETY: the matrices are large enough for the leading dimensions.
                unsafe {
                    sgemm(
                        if row_major { ROW_MAJOR } else { 102 },
                        trans_a,
                        trans_b,
                        m as c_int,
                        n as c_int,
                        k as c_int,
                        2.0,
                        a.as_ptr(),
                        lda as c_int,
                        b.as_ptr(),
                        ldb as c_int,
                        beta,
                        c.as_mut_ptr(),
                        ldc as c_int,
                    );
                }
                for (row, column) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
                    let sum: f32 = (0..k)
                        .map(|i| a[at(row, i, lda, trans_a)] * b[at(i, column, ldb, trans_b)])
                        .sum();
                    let place = at(row, column, ldc, AS_IT_IS);
                    let old = if beta == 0.0 { 0.0 } else { beta * before[place] };
                    let difference = (c[place] - (2.0 * sum + old)).abs();
                    assert!(difference < 1e-4, "{m}x{n}x{k}, case {case}: {difference}");
                }
            }
        }
    }
}
