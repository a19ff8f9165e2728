//! Which source pixels make an output pixel, and with what weights.

use std::f64::consts::PI;

use super::Filter;

/// Fraction bits of a weight: 32 less 8 for the value and 2 for sums outside 0 to 1.
pub(crate) const PRECISION_BITS: u32 = 22;

/// What a table of weights is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AxisKey {
    /// Positions before, if the image were not reduced.
    pub(crate) input: u32,
    /// How many of them each position stands for; the last one may stand for less.
    pub(crate) reduction: u32,
    /// Positions after.
    pub(crate) output: u32,
    pub(crate) filter: Filter,
    /// Whether the axis is stored from its end: position 0 is the last one of the upright image.
    pub(crate) flipped: bool,
    /// Whether weights are rounded to 16 bits, as torchvision has them, before they are brought to the precision of
    /// kernels: sums of them are rounded alike.
    pub(crate) short: bool,
}

impl AxisKey {
    /// Positions before.
    fn positions(&self) -> usize {
        self.input.div_ceil(self.reduction) as usize
    }
}

/// The taps of every output position along one axis.
#[derive(Debug)]
pub(crate) struct Axis {
    key: AxisKey,
    /// Those of the key, which kernels ask for with every row.
    positions: usize,
    starts: Vec<(usize, usize)>,
    weights: Vec<i32>,
    stride: usize,
    /// The weights of one position before they are rounded.
    exact: Vec<f64>,
}

impl Default for Axis {
    /// The axis that maps one position to itself.
    fn default() -> Self {
        let key = AxisKey {
            input: 1,
            reduction: 1,
            output: 1,
            filter: Filter::Box,
            flipped: false,
            short: false,
        };
        let mut axis = Self {
            key,
            positions: 1,
            starts: Vec::new(),
            weights: Vec::new(),
            stride: 0,
            exact: Vec::new(),
        };
        axis.fill(key);
        axis
    }
}

impl Axis {
    /// Makes the table for `key`, unless it is there; returns whether it was made.
    pub(crate) fn set(&mut self, key: AxisKey) -> bool {
        if key == self.key {
            return false;
        }
        self.fill(key);
        true
    }

    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow, the same operations in the same order.
    fn fill(&mut self, key: AxisKey) {
        let AxisKey { output, filter, .. } = key;
        let positions = key.positions();
        // A reduced image is not equal to the reference anyway, and may end within a position: it is not mirrored.
        let flipped = key.flipped && key.reduction == 1;
        // Dividing by a power of two is exact.
        let scale = f64::from(key.input) / f64::from(key.reduction) / f64::from(output);
        let filter_scale = scale.max(1.0);
        let support = radius(filter) * filter_scale;
        let inverse = 1.0 / filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        (self.key, self.positions, self.stride) = (key, positions, stride);
        self.starts.clear();
        self.weights.clear();
        let mut bits = PRECISION_BITS;
        if key.short {
            let mut largest = 0.0;
            for x in 0..output {
                self.place(f64::from(x), scale, support, inverse);
                largest = self.exact.iter().copied().fold(largest, f64::max);
            }
            bits = short_bits(largest);
        }
        for x in 0..output {
            let x = if flipped { output - 1 - x } else { x };
            let low = self.place(f64::from(x), scale, support, inverse);
            let high = low + self.exact.len();
            let exact = self.exact.iter().map(|&tap| fixed(tap, bits));
            if flipped {
                // Mirrored after everything was rounded, so that the result is the exact mirror image.
                self.starts.push((positions - high, high - low));
                self.weights.extend(exact.rev());
            } else {
                self.starts.push((low, high - low));
                self.weights.extend(exact);
            }
            self.weights.resize(self.starts.len() * stride, 0);
        }
    }

    /// Makes the weights of upright position `x`, before they are rounded, and returns the first position they are for.
    fn place(&mut self, x: f64, scale: f64, support: f64, inverse: f64) -> usize {
        let filter = self.key.filter;
        let center = (x + 0.5) * scale;
        // Casts truncate towards zero and a negative start becomes 0, as in C with the clamp that follows.
        let low = (center - support + 0.5) as usize;
        let high = ((center + support + 0.5) as usize).min(self.positions);
        self.exact.clear();
        self.exact.extend(
            (0..high - low)
                .map(|tap| weight(filter, ((tap + low) as f64 - center + 0.5) * inverse)),
        );
        let sum: f64 = self.exact.iter().sum();
        if sum != 0.0 {
            self.exact.iter_mut().for_each(|tap| *tap /= sum);
        }
        low
    }

    pub(crate) fn input(&self) -> usize {
        self.positions
    }

    pub(crate) fn output(&self) -> usize {
        self.key.output as usize
    }

    /// The most taps that an output position has.
    pub(crate) fn most_taps(&self) -> usize {
        self.starts.iter().map(|&(_, len)| len).max().unwrap_or(0)
    }

    /// The first source position of output position `at`, and the weights from there on.
    pub(crate) fn taps_of(&self, at: usize) -> (usize, &[i32]) {
        let (start, len) = self.starts[at];
        (start, &self.weights[at * self.stride..][..len])
    }

    /// [`Axis::taps_of`] for each output position.
    pub(crate) fn taps(&self) -> impl Iterator<Item = (usize, &[i32])> {
        (0..self.output()).map(|at| self.taps_of(at))
    }
}

/// Rounds to so many bits of fraction, and shifts them to [`PRECISION_BITS`].
fn fixed(weight: f64, bits: u32) -> i32 {
    let scaled = weight * f64::from(1 << bits);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32 * (1 << (PRECISION_BITS - bits))
}

/// Fraction bits with which the `largest` weight fits 16 bits: `_compute_index_ranges_int16_weights` of PyTorch 2.15,
/// `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.
fn short_bits(largest: f64) -> u32 {
    let fits = |bits: &u32| (0.5 + largest * f64::from(1 << (bits + 1))) as i32 >= 1 << 15;
    (0..PRECISION_BITS).find(fits).unwrap_or(PRECISION_BITS)
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
