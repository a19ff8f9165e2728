//! Bytes to normalised floats, through a table of every possible result.

/// How a byte becomes a float before the mean is taken off; the two differ in the last bit of half of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rescale {
    /// Multiplied in f64 and rounded to f32 once, as transformers 5.23.0's PIL processors. The default.
    #[default]
    Transformers,
    /// Multiplied in f32 by the rounded factor, as mlx-vlm 0.7.10.
    MlxVlm,
}

/// `(byte * factor - mean) / std` for each channel and byte: 256 x 3 values in f32.
#[derive(Clone, Debug)]
pub(crate) struct Table([[f32; 256]; 3]);

impl Table {
    pub(crate) fn new(rescale: Rescale, factor: f64, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self(std::array::from_fn(|c| {
            std::array::from_fn(|byte| {
                let value = match rescale {
                    Rescale::Transformers => (byte as f64 * factor) as f32,
                    Rescale::MlxVlm => byte as f32 * factor as f32,
                };
                (value - mean[c]) / std[c]
            })
        }))
    }

    pub(crate) fn value(&self, channel: usize, byte: u8) -> f32 {
        self.0[channel][usize::from(byte)]
    }
}
