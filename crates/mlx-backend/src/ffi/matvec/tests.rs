//! Every kernel against products in f64 with what MLX unpacks.

use mlx_rs::{Array, Dtype};

use super::*;
use crate::{
    ffi::packed::{dequantize, quantize},
    noise::noise,
    quantize::{QuantizationMode, Quantize},
};

fn packings() -> impl Iterator<Item = Quantize> {
    let affine = [2, 3, 4, 5, 6, 8]
        .into_iter()
        .flat_map(|bits| [32, 64, 128].map(|group| Quantize::affine(bits, group)));
    let modes = [QuantizationMode::Mxfp4, QuantizationMode::Mxfp8, QuantizationMode::Nvfp4];
    affine.chain(modes.map(Quantize::from))
}

/// Checks `found`, `[outputs, M]`, against the definition with sums of f64.
fn check(found: &[f32], weights: &[f32], x: &[f32], inputs: usize, what: &str) {
    let rows = x.len() / inputs;
    for (n, w) in weights.chunks_exact(inputs).enumerate() {
        for (m, x) in x.chunks_exact(inputs).enumerate() {
            let terms = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            // Relative to what was added up, as sums of either sign cancel.
            let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let off = (f64::from(found[n * rows + m]) - sum).abs();
            assert!(off <= 1e-6 * size, "{what}, output {n} of row {m}: off by {off} of {size}");
        }
    }
}

#[test]
fn packed_products_are_those_of_what_mlx_unpacks() {
    for how in packings() {
        for (outputs, inputs, rows) in [(5, 128, 1), (3, 384, 3), (700, 256, 1)] {
            for stored in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
                let weights = noise(outputs * inputs, 3);
                let dense = Array::from_slice(&weights, &[outputs as i32, inputs as i32]);
                let dense = dense.as_dtype(stored).unwrap();
                let (words, scales, biases) = quantize(&dense, how).unwrap();
                let wide = |a: &Array| match how.mode {
                    QuantizationMode::Affine => a.as_dtype(Dtype::Float32).unwrap(),
                    _ => a.clone(),
                };
                let wide_biases = biases.as_ref().map(wide);
                let parts = (&words, &wide(&scales), wide_biases.as_ref());
                let unpacked = dequantize(parts, how, Dtype::Float32).unwrap();
                let unpacked = unpacked.as_slice::<f32>();

                let x = noise(rows * inputs, 7);
                let bytes = words.view_dtype(Dtype::Uint8).unwrap();
                // At the end of an allocation of its own, so that reading further would be seen.
                let bytes = bytes.as_slice::<u8>().to_vec().into_boxed_slice();
                let packed = Packed {
                    codes: how.into(),
                    bytes: &bytes,
                    group: how.group_size as usize,
                    scales: super::super::host::floats(&scales).unwrap(),
                    biases: biases.as_ref().map(|b| super::super::host::floats(b).unwrap()),
                };
                for level in Level::all() {
                    let mut y = vec![f32::NAN; outputs * rows];
                    product(level, Matrix::Packed(packed), &x, inputs, &mut y);
                    let what = format!("{how} {outputs}x{inputs}x{rows} {stored:?} {level:?}");
                    check(&y, unpacked, &x, inputs, &what);
                    // A token says the same alone and beside others.
                    for (m, x) in x.chunks_exact(inputs).enumerate() {
                        let mut alone = vec![f32::NAN; outputs];
                        product(level, Matrix::Packed(packed), x, inputs, &mut alone);
                        let beside: Vec<f32> = y.iter().skip(m).step_by(rows).copied().collect();
                        assert_eq!(alone, beside, "{what}, row {m}");
                    }
                }
            }
        }
    }
}

#[test]
fn dense_products_are_the_definition() {
    for (outputs, inputs, rows) in [(5, 1, 1), (3, 37, 2), (9, 64, 1), (300, 771, 1)] {
        let (weights, x) = (noise(outputs * inputs, 3), noise(rows * inputs, 7));
        for stored in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let dense = Array::from_slice(&weights, &[outputs as i32, inputs as i32]);
            let dense = dense.as_dtype(stored).unwrap();
            let wide = dense.as_dtype(Dtype::Float32).unwrap();
            for level in Level::all() {
                let mut y = vec![f32::NAN; outputs * rows];
                let floats = super::super::host::floats(&dense).unwrap();
                product(level, Matrix::Dense(floats), &x, inputs, &mut y);
                let what = format!("{outputs}x{inputs}x{rows} {stored:?} {level:?}");
                check(&y, wide.as_slice::<f32>(), &x, inputs, &what);
            }
        }
    }
}
