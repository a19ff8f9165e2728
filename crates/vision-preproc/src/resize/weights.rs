//! Which source pixels make an output pixel, and with what weights.

use std::f64::consts::PI;

use super::Filter;

/// Fraction bits of a weight: 32 less 8 for the value and 2 for sums outside 0 to 1.
pub(super) const PRECISION_BITS: u32 = 22;

/// The taps of every output position along one axis.
#[derive(Debug)]
pub(super) struct Axis {
    starts: Vec<(usize, usize)>,
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow, the same operations in the same order.
    pub(super) fn new(input: u32, output: u32, filter: Filter) -> Self {
        let scale = f64::from(input) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = radius(filter) * filter_scale;
        let inverse = 1.0 / filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let mut starts = Vec::with_capacity(output as usize);
        let mut weights = Vec::with_capacity(output as usize * stride);
        let mut taps = Vec::with_capacity(stride);
        for x in 0..output {
            let center = (f64::from(x) + 0.5) * scale;
            // Casts truncate towards zero and a negative start becomes 0, as in C with the clamp that follows.
            let low = (center - support + 0.5) as usize;
            let high = ((center + support + 0.5) as usize).min(input as usize);
            taps.clear();
            taps.extend(
                (0..high - low)
                    .map(|tap| weight(filter, ((tap + low) as f64 - center + 0.5) * inverse)),
            );
            let sum: f64 = taps.iter().sum();
            starts.push((low, taps.len()));
            weights.extend(taps.iter().map(|&tap| fixed(if sum == 0.0 { tap } else { tap / sum })));
            weights.resize(starts.len() * stride, 0);
        }
        Self { starts, weights, stride }
    }

    /// For each output position, the first source position and the weights from there on.
    pub(super) fn taps(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.starts.iter().zip(weights).map(|(&(start, len), weights)| (start, &weights[..len]))
    }
}

fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn radius(filter: Filter) -> f64 {
    match filter {
        Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn weight(filter: Filter, x: f64) -> f64 {
    const A: f64 = -0.5;
    let distance = x.abs();
    match filter {
        Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
        Filter::Bilinear if distance < 1.0 => 1.0 - distance,
        Filter::Hamming if distance == 0.0 => 1.0,
        Filter::Hamming if distance < 1.0 => {
            let x = distance * PI;
            x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
        }
        Filter::Bicubic if distance < 1.0 => {
            ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
        }
        Filter::Bicubic if distance < 2.0 => {
            (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
        }
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        _ => 0.0,
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}
