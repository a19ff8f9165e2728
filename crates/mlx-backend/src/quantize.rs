//! How weights are packed, and which dense weights to pack: for loading a full checkpoint quantised
//! and for writing a quantised one.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// What a packed weight means. Source: `mlx.core.quantize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantizationMode {
    /// An integer with a scale and a bias for each group: `w = q * scale + bias`.
    #[default]
    Affine,
    /// Floats of 4 bits (E2M1) with a power of two for each group of 32. Source: OCP Microscaling.
    Mxfp4,
    /// Floats of 8 bits (E4M3) with a power of two for each group of 32. Source: OCP Microscaling.
    Mxfp8,
    /// Floats of 4 bits (E2M1) with a float of 8 bits (E4M3) for each group of 16. Source: NVIDIA.
    Nvfp4,
}

impl QuantizationMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4];

    /// Returns the name that MLX and `config.json` have for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// Returns the group sizes that MLX has kernels for, the usual one first.
    #[must_use]
    pub fn group_sizes(self) -> &'static [i32] {
        match self {
            Self::Affine => &[64, 32, 128],
            Self::Mxfp4 | Self::Mxfp8 => &[32],
            Self::Nvfp4 => &[16],
        }
    }

    /// Returns the widths that MLX has kernels for, the usual one first.
    #[must_use]
    pub fn bits(self) -> &'static [i32] {
        match self {
            Self::Affine => &[4, 2, 3, 5, 6, 8],
            Self::Mxfp4 | Self::Nvfp4 => &[4],
            Self::Mxfp8 => &[8],
        }
    }
}

impl fmt::Display for QuantizationMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QuantizationMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| format!("expected affine, mxfp4, mxfp8 or nvfp4, found {text}"))
    }
}

/// How the weights of a layer are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Quantize {
    /// What a packed weight means.
    pub mode: QuantizationMode,
    /// Inputs that share a scale: 32, 64 or 128 in the mode affine, else what the mode says.
    pub group_size: i32,
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8 in the mode affine, else what the mode says.
    pub bits: i32,
}

impl Default for Quantize {
    /// 4 bits in groups of 64, as mlx-vlm's converter.
    fn default() -> Self {
        Self::from(QuantizationMode::Affine)
    }
}

impl From<QuantizationMode> for Quantize {
    /// The usual packing of a mode.
    fn from(mode: QuantizationMode) -> Self {
        Self { mode, group_size: mode.group_sizes()[0], bits: mode.bits()[0] }
    }
}

impl Quantize {
    /// Widths that can be packed in the mode affine.
    pub const BITS: [i32; 6] = [2, 3, 4, 5, 6, 8];

    /// Integers of `bits` bits, a scale and a bias for each `group_size` of them.
    #[must_use]
    pub const fn affine(bits: i32, group_size: i32) -> Self {
        Self { mode: QuantizationMode::Affine, group_size, bits }
    }

    /// Checks that MLX has kernels for this packing.
    ///
    /// # Errors
    /// A sentence with what was expected and what was found.
    pub fn validate(&self) -> Result<(), String> {
        let one_of = |name: &str, allowed: &[i32], found: i32| {
            let mut list = allowed.to_vec();
            list.sort_unstable();
            let mode = self.mode;
            allowed.contains(&found).then_some(()).ok_or_else(|| {
                format!("{name} must be one of {list:?} in the mode {mode}, found {found}")
            })
        };
        one_of("bits", self.mode.bits(), self.bits)?;
        one_of("group_size", self.mode.group_sizes(), self.group_size)
    }

    /// Returns whether the dense weight of module `path` with `input_dims` columns is to be packed.
    pub(crate) fn applies_to(&self, path: &str, input_dims: i32) -> bool {
        input_dims % self.group_size == 0 && !stays_dense(path)
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            QuantizationMode::Affine => {
                write!(f, "{} bits in groups of {}", self.bits, self.group_size)
            }
            mode => f.write_str(mode.name()),
        }
    }
}

/// Returns whether the module at `path` is not packed unless that is asked for by name.
///
/// Towers and connectors stay as they are, as in the mlx-community checkpoints: they are small,
/// and what is seen suffers from packing. So do routers, which choose the experts of a token.
pub(crate) fn stays_dense(path: &str) -> bool {
    const NAMES: [&str; 8] = [
        "vision",
        "visual",
        "aligner",
        "vl_connector",
        "audio_",
        "img_projector",
        "multi_modal_projector",
        "patch_merge_mlp",
    ];
    path.ends_with(".mlp.gate") || NAMES.iter().any(|name| path.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn towers_and_odd_widths_stay_dense() {
        let q = Quantize::default();
        assert!(q.applies_to("language_model.model.layers.0.mlp.up_proj", 256));
        assert!(!q.applies_to("language_model.model.layers.0.mlp.up_proj", 3420));
        assert!(!q.applies_to("vision_tower.blocks.0.attn.qkv", 256));
    }

    #[test]
    fn packings_without_a_kernel_are_refused() {
        let error = Quantize::affine(7, 64).validate().unwrap_err();
        assert_eq!(error, "bits must be one of [2, 3, 4, 5, 6, 8] in the mode affine, found 7");
        assert!(Quantize::affine(4, 48).validate().is_err());
        for mode in QuantizationMode::ALL {
            let usual = Quantize::from(mode);
            usual.validate().unwrap();
            assert_eq!(mode.name().parse::<QuantizationMode>().unwrap(), mode);
            assert!(Quantize { group_size: 8, ..usual }.validate().is_err());
        }
    }
}
