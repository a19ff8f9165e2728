//! Numbers for tests, the same ones in every run.

use mlx_rs::{Array, Dtype};

/// Returns `count` values from -1 to 1 with nothing regular about them: sums of waves cancel, which
/// would measure the rounding of the inputs.
pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Returns such an array of bf16.
pub(crate) fn noise_bf16(shape: &[i32], seed: u32) -> Array {
    noise_f32(shape, seed).as_dtype(Dtype::Bfloat16).unwrap()
}

/// Returns such an array of f32.
pub(crate) fn noise_f32(shape: &[i32], seed: u32) -> Array {
    let count: i32 = shape.iter().product();
    Array::from_slice(&noise(count.unsigned_abs() as usize, seed), shape)
}

/// Returns an array of f32 that goes up and down by `step` from value to value.
pub(crate) fn wave(shape: &[i32], step: f32) -> Array {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * step).sin()).collect();
    Array::from_slice(&values, shape)
}

/// Returns `x` in f32.
pub(crate) fn f32(x: &Array) -> Array {
    x.as_dtype(Dtype::Float32).unwrap()
}

/// Returns the largest magnitude in `x`.
pub(crate) fn largest(x: &Array) -> f32 {
    f32(x).abs().unwrap().max(None).unwrap().item_cast()
}
