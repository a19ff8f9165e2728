//! How the values of a tensor are stored.

use crate::quantize::Quantize;

/// A type of tensors. All but floats are blocks of values that share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Values that share a scale in MLX, for all types that it has.
pub(super) const GROUP: usize = 32;

impl Kind {
    pub(super) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns number and name in the format, values of a block, and its bytes.
    fn properties(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Bf16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
        }
    }

    /// Returns the type of this number.
    ///
    /// # Errors
    /// A sentence with those there are.
    pub(super) fn from_id(id: u32) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.properties().0 == id).ok_or_else(|| {
            let known: Vec<String> =
                Self::ALL.map(|kind| format!("{} ({})", kind.name(), kind.properties().0)).into();
            format!("of type {id}, expected one of {}", known.join(", "))
        })
    }

    pub(super) fn name(self) -> &'static str {
        self.properties().1
    }

    /// Returns the values of a block.
    pub(super) fn block(self) -> usize {
        self.properties().2
    }

    /// Returns the bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        self.properties().3
    }

    /// Returns how MLX holds the values of a matrix exactly in fewer bits than floats; `None` if it cannot:
    /// `Q6_K` has a scale for each 16.
    pub(super) fn packing(self) -> Option<Quantize> {
        let bits = match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q6K => return None,
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q8_0 => 8,
        };
        Some(Quantize::affine(bits, GROUP as i32))
    }

    /// Whether f16 holds the scales of [`packing`](Self::packing); those of the K types are products of
    /// two numbers.
    pub(super) fn has_half_scales(self) -> bool {
        !matches!(self, Self::Q4K | Self::Q5K)
    }
}
