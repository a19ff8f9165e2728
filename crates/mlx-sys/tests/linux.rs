//! The parts of this crate that exist on Linux only.
#![cfg(target_os = "linux")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every block passes the C interface what it was given by it just before"
)]

use std::ffi::c_int;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_sys::*;

#[test]
fn half_precision_values_can_be_read() {
    unsafe {
        for (dtype, bits) in [(mlx_dtype__MLX_FLOAT16, 0x3e00), (mlx_dtype__MLX_BFLOAT16, 0x3fc0)] {
            let wide = array(&[1.5], &[1]);
            let stream = mlx_default_cpu_stream_new();
            let mut narrow = mlx_array_new();
            assert_eq!(mlx_astype(&mut narrow, wide, dtype, stream), 0);
            assert_eq!(mlx_array_eval(narrow), 0);
            let (mut item, data);
            if dtype == mlx_dtype__MLX_FLOAT16 {
                let mut value = __BindgenFloat16(0);
                assert_eq!(mlx_array_item_float16(&mut value, narrow), 0);
                (item, data) = (value.0, (*mlx_array_data_float16(narrow)).0);
            } else {
                item = 0;
                assert_eq!(mlx_array_item_bfloat16(&mut item, narrow), 0);
                data = *mlx_array_data_bfloat16(narrow);
            }
            assert_eq!([item, data], [bits, bits]);
            mlx_array_free(narrow);
            mlx_array_free(wide);
            mlx_stream_free(stream);
        }
    }
}

#[test]
fn the_library_is_found_and_says_where() {
    let path = linux::load().unwrap();
    assert!(path.ends_with("libmlx.so"), "{}", path.display());
}

#[test]
fn matrix_products_go_to_the_function_given() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// Rows only, nothing transposed, `alpha` 1 and `beta` 0: what the product below needs.
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
        assert_eq!((layout, trans_a, trans_b, alpha, beta), (101, 111, 111, 1.0, 0.0));
        assert_eq!((lda, ldb, ldc), (k, n, n));
        for row in 0..m {
            for column in 0..n {
                let terms = (0..k).map(|i| unsafe {
                    *a.offset((row * lda + i) as isize) * *b.offset((i * ldb + column) as isize)
                });
                let sum = terms.sum();
                unsafe { *c.offset((row * ldc + column) as isize) = sum };
            }
        }
        CALLS.fetch_add(1, Ordering::Relaxed);
    }

    unsafe {
        linux::replace_sgemm(sgemm).unwrap();
        let a = array(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let b = array(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2]);
        let stream = mlx_default_cpu_stream_new();
        let mut product = mlx_array_new();
        assert_eq!(mlx_matmul(&mut product, a, b, stream), 0);
        assert_eq!(mlx_array_eval(product), 0);
        let values = slice::from_raw_parts(mlx_array_data_float32(product), 4);
        assert_eq!(values, [4.0, 5.0, 10.0, 11.0]);
        for array in [product, a, b] {
            mlx_array_free(array);
        }
        mlx_stream_free(stream);
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), 1);
}

unsafe fn array(values: &[f32], shape: &[c_int]) -> mlx_array {
    let (data, rank) = (ptr::from_ref(values).cast(), shape.len() as c_int);
    unsafe { mlx_array_new_data(data, shape.as_ptr(), rank, mlx_dtype__MLX_FLOAT32) }
}
