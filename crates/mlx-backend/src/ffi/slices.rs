//! Slices of arrays by their bounds. The indexing of mlx-rs reaches the same functions of MLX by way
//! of reshapes that cost as much as the slice, and a decoder does this for every token and layer.

use mlx_rs::{Array, Stream, error::Result as MlxResult};

use super::array;

/// Returns `x[from[0]..to[0], from[1]..to[1], ..]`, a view.
pub(crate) fn slice<const N: usize>(x: &Array, from: [i32; N], to: [i32; N]) -> MlxResult<Array> {
    assert_eq!(x.ndim(), N, "a slice of another rank");
    let (steps, stream) = ([1; N], Stream::thread_local_or_default());
    // SAFETY: the three lists have `N` values each, the array and the stream outlive the call, and
    // `result` is a place for an array.
    array("slice", |result| unsafe {
        mlx_sys::mlx_slice(
            result,
            x.as_ptr(),
            from.as_ptr(),
            N,
            to.as_ptr(),
            N,
            steps.as_ptr(),
            N,
            stream.as_ptr(),
        )
    })
}

/// Returns `x` with `update`, which has the rank of `x`, in the place of [`slice`]`(x, from, to)`. In
/// place if nobody else holds `x` when it is computed.
pub(crate) fn slice_update<const N: usize>(
    x: &Array,
    update: &Array,
    from: [i32; N],
    to: [i32; N],
) -> MlxResult<Array> {
    assert_eq!((x.ndim(), update.ndim()), (N, N), "an update of another rank");
    let (steps, stream) = ([1; N], Stream::thread_local_or_default());
    // SAFETY: as in `slice`.
    array("slice_update", |result| unsafe {
        mlx_sys::mlx_slice_update(
            result,
            x.as_ptr(),
            update.as_ptr(),
            from.as_ptr(),
            N,
            to.as_ptr(),
            N,
            steps.as_ptr(),
            N,
            stream.as_ptr(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_and_what_replaces_it() {
        let x = Array::from_slice(&(0..12).collect::<Vec<i32>>(), &[1, 3, 4]);
        let part = slice(&x, [0, 1, 1], [1, 3, 3]).unwrap();
        assert_eq!(part.shape(), [1, 2, 2]);
        let flat = part.reshape(&[-1]).unwrap();
        assert_eq!(flat.to_vec_cast::<i32>().unwrap(), [5, 6, 9, 10]);
        let minus = part.negative().unwrap();
        let all = slice_update(&x, &minus, [0, 1, 1], [1, 3, 3]).unwrap().reshape(&[-1]).unwrap();
        let expected = [0, 1, 2, 3, 4, -5, -6, 7, 8, -9, -10, 11];
        assert_eq!(all.to_vec_cast::<i32>().unwrap(), expected);
    }

    #[test]
    fn what_mlx_refuses_is_an_error() {
        let x = Array::from_slice(&[1, 2, 3], &[3]);
        let long = Array::from_slice(&[1, 2, 3, 4], &[4]);
        assert!(slice_update(&x, &long, [0], [2]).is_err());
    }
}
