//! Bytes to normalised floats. A table of every possible result says what is right, and a few operations that are
//! quicker than looking up are used where they give the same bits for all 256 bytes.

/// How a byte becomes a float before the mean is taken off; they differ in the last bit of half of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rescale {
    /// Multiplied in f64 and rounded to f32 once, as transformers 5.23.0's PIL processors. The default.
    #[default]
    Transformers,
    /// Multiplied in f32 by the rounded factor, as mlx-vlm 0.7.10.
    MlxVlm,
    /// Not at all: mean and standard deviation are divided by the factor instead, in f32, as the processors of
    /// transformers 5.23.0 on torchvision.
    Torchvision,
}

/// `(byte * factor - mean) / std` for each channel and byte: 256 x 3 values in f32.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    values: [[f32; 256]; 3],
    steps: Option<Steps>,
}

/// Operations in f32 that give the values of a table.
///
/// `fma(byte, factor[0], byte * factor[1])` is the product with a factor of twice the precision, rounded once. A
/// division is `q = x * inverse; fma(fma(-q, std, x), inverse, q)`: the quotient by a rounded reciprocal, corrected by
/// what is left over (Markstein 1990). Both can miss the rounded result in rare cases, so all bytes are tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) factor: [f32; 2],
    pub(crate) mean: [f32; 3],
    pub(crate) std: [f32; 3],
    pub(crate) inverse: [f32; 3],
}

impl Table {
    pub(crate) fn new(rescale: Rescale, factor: f64, mean: [f32; 3], std: [f32; 3]) -> Self {
        let (factor, mean, std) = match rescale {
            Rescale::Torchvision => {
                let scale = (1.0 / factor) as f32;
                (1.0, mean.map(|mean| mean * scale), std.map(|std| std * scale))
            }
            _ => (factor, mean, std),
        };
        let values = std::array::from_fn(|c| {
            std::array::from_fn(|byte| {
                let value = match rescale {
                    Rescale::Transformers => (byte as f64 * factor) as f32,
                    Rescale::MlxVlm | Rescale::Torchvision => byte as f32 * factor as f32,
                };
                (value - mean[c]) / std[c]
            })
        });
        let high = factor as f32;
        let low = match rescale {
            Rescale::Transformers => (factor - f64::from(high)) as f32,
            Rescale::MlxVlm | Rescale::Torchvision => 0.0,
        };
        let steps = Steps { factor: [high, low], mean, std, inverse: std.map(f32::recip) };
        let steps = steps.give(&values).then_some(steps);
        Self { values, steps }
    }

    pub(crate) fn value(&self, channel: usize, byte: u8) -> f32 {
        self.values[channel][usize::from(byte)]
    }

    /// The quick way, if it is exact.
    pub(crate) fn steps(&self) -> Option<&Steps> {
        self.steps.as_ref()
    }
}

impl Steps {
    fn give(&self, values: &[[f32; 256]; 3]) -> bool {
        let same = |channel: usize, byte: usize| {
            let (mean, std, inverse) =
                (self.mean[channel], self.std[channel], self.inverse[channel]);
            let byte_value = byte as f32;
            let scaled = byte_value.mul_add(self.factor[0], byte_value * self.factor[1]);
            let centred = scaled - mean;
            let quotient = centred * inverse;
            let rest = (-quotient).mul_add(std, centred);
            rest.mul_add(inverse, quotient).to_bits() == values[channel][byte].to_bits()
        };
        (0..3).all(|channel| (0..256).all(|byte| same(channel, byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_of_known_models_have_a_quick_way() {
        let clip =
            ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
        let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        for (mean, std) in [clip, imagenet, ([0.5; 3], [0.5; 3]), ([0.0; 3], [1.0; 3])] {
            for rescale in [Rescale::Transformers, Rescale::MlxVlm, Rescale::Torchvision] {
                let table = Table::new(rescale, 1.0 / 255.0, mean, std);
                assert!(table.steps().is_some(), "{rescale:?} {mean:?} {std:?}");
            }
        }
    }

    #[test]
    fn a_way_that_misses_a_value_is_not_taken() {
        // The reciprocal of a subnormal number is infinite.
        let table = Table::new(Rescale::default(), 1.0, [0.0; 3], [1.0, f32::from_bits(1), 1.0]);
        assert!(table.steps().is_none());
        assert_eq!(table.value(1, 0), 0.0);
        assert_eq!(table.value(1, 1), f32::INFINITY);
    }
}
