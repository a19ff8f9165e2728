//! The operations of MLX that the models use, against values computed in plain Rust.
//!
//! MLX is fetched compiled and reached through a compiled mlx-c, so this also shows that both are
//! what the bindings say they are. References are the textbook loops, in f64; nothing here asks
//! MLX what MLX thinks.

use std::collections::HashMap;
use std::fs;

use mlx_rs::fast::{
    ScaledDotProductAttentionMask, layer_norm, rms_norm, rope, scaled_dot_product_attention,
};
use mlx_rs::ops::indexing::{argmax_axis, take_along_axis, take_axis};
use mlx_rs::ops::{
    argpartition_axis, argsort_axis, concatenate, conv2d, cumsum, dequantize, logsumexp_axis,
    matmul, quantize, quantized_matmul, select, sigmoid, softmax_axis,
};
use mlx_rs::{Array, Dtype, nn};

// Matrices.

#[test]
fn matmul_agrees() {
    let (m, k, n) = (5, 37, 11);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let product = matmul(array(&a, &[m, k]), array(&b, &[k, n])).unwrap();
    assert_close(&product, &[m, n], &reference_matmul(&a, &b, m, k, n));
}

#[test]
fn matmul_broadcasts_over_the_batch() {
    let (batch, m, k, n) = (3, 4, 8, 6);
    let (a, b) = (numbers(batch * m * k, 3), numbers(k * n, 4));
    let product = matmul(array(&a, &[batch, m, k]), array(&b, &[k, n])).unwrap();
    assert_close(&product, &[batch, m, n], &reference_matmul(&a, &b, batch * m, k, n));
}

#[test]
fn a_wrong_shape_is_an_error() {
    let a = Array::from_slice(&[0.0f32; 6], &[2, 3]);
    let error = matmul(&a, &a).unwrap_err().to_string();
    assert!(error.contains("matmul") && error.contains("(2,3)"), "{error}");
}

#[test]
fn conv2d_with_stride_cuts_patches() {
    let (h, w, channels, size, out) = (4, 6, 3, 2, 5);
    let (pixels, kernel) = (numbers(h * w * channels, 5), numbers(out * size * size * channels, 6));
    let result = conv2d(
        array(&pixels, &[1, h, w, channels]),
        array(&kernel, &[out, size, size, channels]),
        (size as i32, size as i32),
        (0, 0),
        (1, 1),
        1,
    );
    let mut expected = Vec::new();
    for (y, x) in (0..h / size).flat_map(|y| (0..w / size).map(move |x| (y, x))) {
        for o in 0..out {
            let mut sum = 0.0;
            for (dy, dx) in (0..size).flat_map(|dy| (0..size).map(move |dx| (dy, dx))) {
                for c in 0..channels {
                    let pixel = pixels[((y * size + dy) * w + x * size + dx) * channels + c];
                    sum += pixel * kernel[((o * size + dy) * size + dx) * channels + c];
                }
            }
            expected.push(sum);
        }
    }
    assert_close(&result.unwrap(), &[1, h / size, w / size, out], &expected);
}

// Quantised weights.

const BIT_WIDTHS: [usize; 6] = [2, 3, 4, 5, 6, 8];

/// Quantised weights `[rows, columns]`, made up bit by bit.
struct Packed {
    rows: usize,
    columns: usize,
    bits: usize,
    group_size: usize,
    /// Each row is one stream of bits, low bits first, cut into words.
    words: Vec<u32>,
    scales: Vec<f64>,
    biases: Vec<f64>,
}

impl Packed {
    fn random(rows: usize, columns: usize, bits: usize, group_size: usize) -> Self {
        let mut state = 77 + bits as u64;
        let words = (0..rows * columns * bits / 32).map(|_| next(&mut state) as u32).collect();
        let groups = rows * columns / group_size;
        let step = 1.0 / f64::from(1 << bits);
        let scales = numbers(groups, 8).iter().map(|s| f64::from((s * step) as f32)).collect();
        Self { rows, columns, bits, group_size, words, scales, biases: numbers(groups, 9) }
    }

    fn row_words(&self) -> usize {
        self.columns * self.bits / 32
    }

    fn code(&self, row: usize, column: usize) -> u32 {
        let words = &self.words[row * self.row_words()..][..self.row_words()];
        (0..self.bits).fold(0, |code, bit| {
            let at = column * self.bits + bit;
            code | (words[at / 32] >> (at % 32) & 1) << bit
        })
    }

    fn unpacked(&self) -> Vec<f64> {
        let positions = (0..self.rows).flat_map(|row| (0..self.columns).map(move |c| (row, c)));
        positions
            .map(|(row, column)| {
                let group = (row * self.columns + column) / self.group_size;
                f64::from(self.code(row, column)) * self.scales[group] + self.biases[group]
            })
            .collect()
    }

    fn arrays(&self) -> (Array, Array, Array) {
        let groups = [self.rows, self.columns / self.group_size];
        let shape = [self.rows as i32, self.row_words() as i32];
        let words = Array::from_slice(&self.words, &shape);
        (words, array(&self.scales, &groups), array(&self.biases, &groups))
    }
}

#[test]
fn dequantize_agrees_for_every_width() {
    for bits in BIT_WIDTHS {
        for group_size in [32, 64, 128] {
            let packed = Packed::random(3, 256, bits, group_size);
            let (w, scales, biases) = packed.arrays();
            let result = dequantize(&w, &scales, &biases, group_size as i32, bits as i32).unwrap();
            assert_close(&result, &[3, 256], &packed.unpacked());
        }
    }
}

#[test]
fn quantized_matmul_agrees_for_every_width() {
    let (rows, columns) = (40, 128);
    for bits in BIT_WIDTHS {
        // One row is a kernel of its own.
        for m in [1, 7] {
            let packed = Packed::random(rows, columns, bits, 64);
            let (w, scales, biases) = packed.arrays();
            let x = numbers(m * columns, 10);
            let result = quantized_matmul(
                array(&x, &[m, columns]),
                &w,
                &scales,
                &biases,
                true,
                64,
                bits as i32,
            );
            let weights = transposed(&packed.unpacked(), rows, columns);
            let expected = reference_matmul(&x, &weights, m, columns, rows);
            assert_close(&result.unwrap(), &[m, rows], &expected);
        }
    }
}

#[test]
fn quantized_matmul_agrees_without_transposing() {
    let (rows, columns, m) = (24, 64, 5);
    for bits in BIT_WIDTHS {
        let packed = Packed::random(rows, columns, bits, 32);
        let (w, scales, biases) = packed.arrays();
        let x = numbers(m * rows, 11);
        let result =
            quantized_matmul(array(&x, &[m, rows]), &w, &scales, &biases, false, 32, bits as i32);
        let expected = reference_matmul(&x, &packed.unpacked(), m, rows, columns);
        assert_close(&result.unwrap(), &[m, columns], &expected);
    }
}

#[test]
fn quantize_is_off_by_one_step_at_most() {
    let weights = numbers(2 * 128, 12);
    for bits in BIT_WIDTHS {
        let (w, scales, biases) = quantize(array(&weights, &[2, 128]), 64, bits as i32).unwrap();
        let packed = Packed {
            rows: 2,
            columns: 128,
            bits,
            group_size: 64,
            words: evaluated(&w).as_slice::<u32>().to_vec(),
            scales: read(&scales),
            biases: read(&biases),
        };
        for (index, (value, weight)) in packed.unpacked().iter().zip(&weights).enumerate() {
            // Half a step in the middle of the range. The end that is larger is hit exactly, with
            // a scale that was shrunk for it, so that the other end can be out of reach.
            let step = packed.scales[index / 64].abs();
            assert!((value - weight).abs() <= 1.01 * step, "{bits} bits: {weight} became {value}");
        }
    }
}

// Attention and positions.

/// Attention of queries `[H, L, D]` to keys and values `[K, S, D]`; head `h` reads `h * K / H`.
struct Heads {
    h: usize,
    k: usize,
    l: usize,
    s: usize,
    d: usize,
}

impl Heads {
    fn check(&self, causal: bool) {
        let &Self { h, k, l, s, d } = self;
        let queries = numbers(h * l * d, 13);
        let (keys, values) = (numbers(k * s * d, 14), numbers(k * s * d, 15));
        let scale = 1.0 / (d as f64).sqrt();
        let result = scaled_dot_product_attention(
            array(&queries, &[1, h, l, d]),
            array(&keys, &[1, k, s, d]),
            array(&values, &[1, k, s, d]),
            scale as f32,
            causal.then_some(ScaledDotProductAttentionMask::Causal),
            None,
        );

        let mut expected = Vec::new();
        for (head, query) in (0..h).flat_map(|head| (0..l).map(move |query| (head, query))) {
            let q = &queries[(head * l + query) * d..][..d];
            let cached = |rows: &[f64], at: usize| {
                let start = (head * k / h * s + at) * d;
                rows[start..start + d].to_vec()
            };
            // The last query is at the last key.
            let visible = if causal { s - l + query + 1 } else { s };
            let scores: Vec<f64> =
                (0..visible).map(|at| scale * dot(q, &cached(&keys, at))).collect();
            let weights = reference_softmax(&scores);
            expected.extend((0..d).map(|column| {
                (0..visible).map(|at| weights[at] * cached(&values, at)[column]).sum::<f64>()
            }));
        }
        assert_close(&result.unwrap(), &[1, h, l, d], &expected);
    }
}

#[test]
fn attention_agrees() {
    Heads { h: 4, k: 4, l: 6, s: 6, d: 16 }.check(false);
    Heads { h: 4, k: 4, l: 6, s: 6, d: 16 }.check(true);
}

#[test]
fn attention_with_grouped_heads_and_a_cache_agrees() {
    Heads { h: 6, k: 2, l: 3, s: 9, d: 8 }.check(false);
    Heads { h: 6, k: 2, l: 3, s: 9, d: 8 }.check(true);
    // One new token, as in decoding.
    Heads { h: 8, k: 2, l: 1, s: 33, d: 64 }.check(true);
}

#[test]
fn rope_turns_halves_or_neighbours() {
    let (heads, l, d, rotated, offset, base) = (2, 5, 12, 8, 7, 10_000.0f64);
    let x = numbers(heads * l * d, 16);
    for neighbours in [false, true] {
        let result = rope(
            array(&x, &[1, heads, l, d]),
            rotated as i32,
            neighbours,
            base as f32,
            1.0,
            offset as i32,
            None,
        );
        let mut expected = x.clone();
        for row in 0..heads * l {
            let position = (offset + row % l) as f64;
            for i in 0..rotated / 2 {
                let angle = position * base.powf(-2.0 * i as f64 / rotated as f64);
                let (sin, cos) = angle.sin_cos();
                let pair = if neighbours { (2 * i, 2 * i + 1) } else { (i, i + rotated / 2) };
                let (a, b) = (row * d + pair.0, row * d + pair.1);
                expected[a] = x[a] * cos - x[b] * sin;
                expected[b] = x[a] * sin + x[b] * cos;
            }
        }
        assert_close(&result.unwrap(), &[1, heads, l, d], &expected);
    }
}

// Norms and activations.

#[test]
fn rms_norm_agrees() {
    let (rows, width, eps) = (3, 20, 1e-6);
    let (x, weight) = (numbers(rows * width, 17), numbers(width, 18));
    let result = rms_norm(array(&x, &[rows, width]), Some(&array(&weight, &[width])), eps);
    let expected = x.chunks(width).flat_map(|row| {
        let scale = (dot(row, row) / width as f64 + f64::from(eps)).sqrt().recip();
        row.iter().zip(&weight).map(move |(x, w)| x * scale * w)
    });
    assert_close(&result.unwrap(), &[rows, width], &expected.collect::<Vec<_>>());
}

#[test]
fn layer_norm_agrees() {
    let (rows, width, eps) = (3, 20, 1e-5);
    let (x, weight, bias) = (numbers(rows * width, 19), numbers(width, 20), numbers(width, 21));
    let (weight_array, bias_array) = (array(&weight, &[width]), array(&bias, &[width]));
    let result = layer_norm(array(&x, &[rows, width]), &weight_array, &bias_array, eps);
    let mut expected = Vec::new();
    for row in x.chunks(width) {
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let scale = (variance + f64::from(eps)).sqrt().recip();
        expected.extend((0..width).map(|i| (row[i] - mean) * scale * weight[i] + bias[i]));
    }
    assert_close(&result.unwrap(), &[rows, width], &expected);
}

#[test]
fn activations_agree() {
    let x: Vec<f64> = (-30..=30).map(|i| f64::from(i) / 10.0).collect();
    let input = array(&x, &[x.len()]);
    let check = |result: Array, function: fn(f64) -> f64| {
        assert_close(&result, &[x.len()], &x.iter().map(|&x| function(x)).collect::<Vec<_>>());
    };
    check(nn::gelu(&input).unwrap(), |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())));
    check(nn::gelu_approximate(&input).unwrap(), |x| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    });
    check(nn::silu(&input).unwrap(), |x| x / (1.0 + (-x).exp()));
    check(sigmoid(&input).unwrap(), |x| 1.0 / (1.0 + (-x).exp()));
}

#[test]
fn softmax_agrees_and_does_not_overflow() {
    let mut x = numbers(2 * 9, 22);
    x[3] = 500.0;
    let result = softmax_axis(array(&x, &[2, 9]), -1, true).unwrap();
    let expected: Vec<f64> = x.chunks(9).flat_map(reference_softmax).collect();
    assert_close(&result, &[2, 9], &expected);

    let sums = logsumexp_axis(array(&x[9..], &[9]), 0, None).unwrap();
    let expected = x[9..].iter().map(|x| x.exp()).sum::<f64>().ln();
    assert_close(&sums, &[], &[expected]);
}

// Choosing and moving.

#[test]
fn sampling_finds_the_largest() {
    let x = numbers(50, 23);
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
    let logits = array(&x, &[1, 50]);

    let best = argmax_axis(&logits, -1, None).unwrap();
    assert_eq!(evaluated(&best).as_slice::<u32>(), [order[0] as u32]);

    let descending = argsort_axis(logits.negative().unwrap(), -1).unwrap();
    let expected: Vec<u32> = order.iter().map(|&index| index as u32).collect();
    assert_eq!(evaluated(&descending).as_slice::<u32>(), expected);

    // The first five of a partition are the best five in some order.
    let partition = argpartition_axis(logits.negative().unwrap(), 4, -1).unwrap();
    let mut top = evaluated(&partition).as_slice::<u32>()[..5].to_vec();
    top.sort_unstable();
    let mut expected = expected[..5].to_vec();
    expected.sort_unstable();
    assert_eq!(top, expected);

    let sorted = take_along_axis(&logits, &descending, -1).unwrap();
    let values: Vec<f64> = order.iter().map(|&index| x[index]).collect();
    assert_close(&sorted, &[1, 50], &values);

    let sums = cumsum(&sorted, -1, None, None).unwrap();
    let running = values.iter().scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    assert_close(&sums, &[1, 50], &running.collect::<Vec<_>>());
}

#[test]
fn rows_are_taken_joined_and_chosen() {
    let table = numbers(6 * 4, 24);
    let ids = Array::from_slice(&[5i32, 0, 5], &[3]);
    let rows = take_axis(array(&table, &[6, 4]), &ids, 0).unwrap();
    let expected: Vec<f64> =
        [5, 0, 5].iter().flat_map(|&id| table[id * 4..][..4].to_vec()).collect();
    assert_close(&rows, &[3, 4], &expected);

    let joined = concatenate(&[&rows, &rows], 0).unwrap();
    assert_close(&joined, &[6, 4], &[expected.clone(), expected.clone()].concat());

    let mask = Array::from_slice(&[true, false, true], &[3, 1]);
    let chosen = select(&mask, &rows, array(&[0.0], &[1])).unwrap();
    let kept: Vec<f64> =
        expected.iter().enumerate().map(|(i, &x)| if i / 4 == 1 { 0.0 } else { x }).collect();
    assert_close(&chosen, &[3, 4], &kept);
}

// Types and files.

#[test]
fn half_types_round_to_nearest_even() {
    let x = numbers(200, 25);
    let input = array(&x, &[x.len()]);
    // Of 23 bits of mantissa, 10 and 7 stay.
    for (dtype, dropped) in [(Dtype::Float16, 13), (Dtype::Bfloat16, 16)] {
        let narrow = input.as_dtype(dtype).unwrap();
        assert_eq!((narrow.dtype(), narrow.nbytes()), (dtype, 2 * x.len()));
        let back = narrow.as_dtype(Dtype::Float32).unwrap();
        let expected: Vec<f32> = x
            .iter()
            .map(|&x| {
                let bits = (x as f32).to_bits();
                let odd = bits >> dropped & 1;
                f32::from_bits((bits + (1 << (dropped - 1)) - 1 + odd) >> dropped << dropped)
            })
            .collect();
        assert_eq!(evaluated(&back).as_slice::<f32>(), expected);
    }
}

#[test]
fn safetensors_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let (wide, words) = (numbers(6, 26), [1u32, u32::MAX, 3]);
    let narrow = array(&wide, &[2, 3]).as_dtype(Dtype::Bfloat16).unwrap();
    let arrays = [
        ("a.wide", array(&wide, &[2, 3])),
        ("a.narrow", narrow.clone()),
        ("b", Array::from_slice(&words, &[3])),
    ];
    let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    Array::save_safetensors(arrays.iter().map(|(n, a)| (*n, a)), &metadata, &path).unwrap();

    let (loaded, found) = Array::load_safetensors_with_metadata(&path).unwrap();
    assert_eq!(found.get("format").map(String::as_str), Some("mlx"));
    assert_eq!(loaded.len(), 3);
    assert_close(&loaded["a.wide"], &[2, 3], &wide);
    assert_eq!(loaded["a.narrow"].dtype(), Dtype::Bfloat16);
    assert_eq!(read(&loaded["a.narrow"]), read(&narrow));
    assert_eq!(evaluated(&loaded["b"]).as_slice::<u32>(), words);
}

#[test]
fn safetensors_are_read_as_specified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let header = r#"{"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    // 1.5 and -2 in half precision.
    bytes.extend([0x3e00u16, 0xc000].map(u16::to_le_bytes).concat());
    fs::write(&path, &bytes).unwrap();
    let loaded = Array::load_safetensors(&path).unwrap();
    assert_eq!(loaded["x"].dtype(), Dtype::Float16);
    assert_eq!(read(&loaded["x"]), [1.5, -2.0]);

    fs::write(&path, &bytes[..20]).unwrap();
    assert!(Array::load_safetensors(&path).is_err(), "a header that is cut off");
}

// Helpers.

/// Reproducible numbers between -1 and 1 that f32 holds exactly.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    (0..count).map(|_| (next(&mut state) >> 40) as f64 / f64::from(1 << 23) - 1.0).collect()
}

/// The generator `SplitMix64`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn array(values: &[f64], shape: &[usize]) -> Array {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
    Array::from_slice(&values, &shape)
}

fn evaluated(array: &Array) -> Array {
    // A copy in row order, whatever the strides of a view.
    let array = array.flatten(None, None).unwrap();
    array.eval().unwrap();
    array
}

fn read(array: &Array) -> Vec<f64> {
    let array = evaluated(&array.as_dtype(Dtype::Float32).unwrap());
    array.as_slice::<f32>().iter().map(|&value| f64::from(value)).collect()
}

#[track_caller]
fn assert_close(found: &Array, shape: &[usize], expected: &[f64]) {
    let found_shape: Vec<usize> = found.shape().iter().map(|&size| size as usize).collect();
    assert_eq!(found_shape, shape);
    let found = read(found);
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 2e-5 * expected.abs().max(1.0);
        assert!((found - expected).abs() <= tolerance, "at {index}: {found}, expected {expected}");
    }
}

/// `[m, k]` times `[k, n]`.
fn reference_matmul(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let cells = (0..m).flat_map(|row| (0..n).map(move |column| (row, column)));
    cells.map(|(row, column)| (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum()).collect()
}

fn transposed(a: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let cells = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
    cells.map(|(row, column)| a[row * columns + column]).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn reference_softmax(x: &[f64]) -> Vec<f64> {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = x.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The power series, which is exact enough up to 3.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}
