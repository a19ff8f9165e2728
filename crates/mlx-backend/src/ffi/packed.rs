//! Packed weights in every mode of MLX; the functions of mlx-rs know one.

use std::ffi::CStr;

use mlx_rs::{
    Array, Dtype, Stream,
    error::{Exception, Result as MlxResult},
};
use mlx_sys::{mlx_optional_dtype, mlx_optional_int};

use super::array;
use crate::quantize::{QuantizationMode, Quantize};

/// Words, scales and, where the mode has them, biases.
type Parts<'a> = (&'a Array, &'a Array, Option<&'a Array>);

/// Packs the rows of `weights`, `[.., input]`: words, scales and, in the mode affine, biases.
pub(crate) fn quantize(weights: &Array, how: Quantize) -> MlxResult<(Array, Array, Option<Array>)> {
    let stream = Stream::thread_local_or_default();
    let (group_size, bits) = (given(how.group_size), given(how.bits));
    // SAFETY: the arrays and the stream outlive the call, the mode is a C string, the vector is filled
    // by the call and freed once, and each array taken out of it is a reference of its own. An empty
    // array stands for a scale that is not given.
    let (status, parts) = unsafe {
        let mut vector = mlx_sys::mlx_vector_array_new();
        let none = mlx_sys::mlx_array_new();
        let mut status = mlx_sys::mlx_quantize(
            &raw mut vector,
            weights.as_ptr(),
            group_size,
            bits,
            mode(how).as_ptr(),
            none,
            stream.as_ptr(),
        );
        mlx_sys::mlx_array_free(none);
        let mut parts = Vec::new();
        if status == 0 {
            for i in 0..mlx_sys::mlx_vector_array_size(vector) {
                let mut part = mlx_sys::mlx_array_new();
                status |= mlx_sys::mlx_vector_array_get(&raw mut part, vector, i);
                parts.push(Array::from_ptr(part));
            }
        }
        mlx_sys::mlx_vector_array_free(vector);
        (status, parts)
    };
    let mut parts = parts.into_iter();
    match (status, parts.next(), parts.next()) {
        (0, Some(words), Some(scales)) => Ok((words, scales, parts.next())),
        _ => Err(Exception::custom(format!("quantize failed with status {status}"))),
    }
}

/// Returns packed weights as values of `dtype`.
pub(crate) fn dequantize(
    (words, scales, biases): Parts<'_>,
    how: Quantize,
    dtype: Dtype,
) -> MlxResult<Array> {
    let stream = Stream::thread_local_or_default();
    let dtype = mlx_optional_dtype { value: dtype.into(), has_value: true };
    // SAFETY: as in `quantize`.
    array("dequantize", |result| unsafe {
        let absent = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_dequantize(
            result,
            words.as_ptr(),
            scales.as_ptr(),
            biases.map_or(absent, Array::as_ptr),
            given(how.group_size),
            given(how.bits),
            mode(how).as_ptr(),
            absent,
            dtype,
            stream.as_ptr(),
        );
        mlx_sys::mlx_array_free(absent);
        status
    })
}

/// `x Wᵀ` with packed weights.
pub(crate) fn quantized_matmul(x: &Array, parts: Parts<'_>, how: Quantize) -> MlxResult<Array> {
    quantized_product(x, parts, how, true)
}

/// `x W`, or `x Wᵀ` if `transpose`, with packed weights.
pub(crate) fn quantized_product(
    x: &Array,
    (words, scales, biases): Parts<'_>,
    how: Quantize,
    transpose: bool,
) -> MlxResult<Array> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: as in `quantize`.
    array("quantized_matmul", |result| unsafe {
        let absent = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_quantized_matmul(
            result,
            x.as_ptr(),
            words.as_ptr(),
            scales.as_ptr(),
            biases.map_or(absent, Array::as_ptr),
            transpose,
            given(how.group_size),
            given(how.bits),
            mode(how).as_ptr(),
            stream.as_ptr(),
        );
        mlx_sys::mlx_array_free(absent);
        status
    })
}

/// [`quantized_matmul`] by those of a stack of weights, `[n, output, ..]`, that `which` names.
pub(crate) fn gather_qmm(
    x: &Array,
    (words, scales, biases): Parts<'_>,
    which: &Array,
    how: Quantize,
) -> MlxResult<Array> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: as in `quantize`.
    array("gather_qmm", |result| unsafe {
        let absent = mlx_sys::mlx_array_new();
        let status = mlx_sys::mlx_gather_qmm(
            result,
            x.as_ptr(),
            words.as_ptr(),
            scales.as_ptr(),
            biases.map_or(absent, Array::as_ptr),
            absent,
            which.as_ptr(),
            true,
            given(how.group_size),
            given(how.bits),
            mode(how).as_ptr(),
            false,
            stream.as_ptr(),
        );
        mlx_sys::mlx_array_free(absent);
        status
    })
}

fn given(value: i32) -> mlx_optional_int {
    mlx_optional_int { value, has_value: true }
}

fn mode(how: Quantize) -> &'static CStr {
    match how.mode {
        QuantizationMode::Affine => c"affine",
        QuantizationMode::Mxfp4 => c"mxfp4",
        QuantizationMode::Mxfp8 => c"mxfp8",
        QuantizationMode::Nvfp4 => c"nvfp4",
    }
}
