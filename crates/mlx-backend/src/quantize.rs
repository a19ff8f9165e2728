//! Which dense weights to pack, and how: for loading a full checkpoint quantised and for writing a
//! quantised one.

use serde::Serialize;

use crate::checkpoint::{Quantization, QuantizationMode};

/// How to pack dense weights: `w = q * scale + bias`, one scale and bias for each group of inputs.
///
/// Source: `mlx.core.quantize`, mode `affine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantize {
    /// Inputs that share a scale: 32, 64 or 128.
    pub group_size: i32,
    /// Bits of a weight: 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
}

impl Default for Quantize {
    /// 4 bits in groups of 64, as mlx-vlm's converter.
    fn default() -> Self {
        Self { group_size: 64, bits: 4 }
    }
}

impl Quantize {
    /// Widths that can be packed.
    pub const BITS: [i32; 6] = [2, 3, 4, 5, 6, 8];
    /// Group sizes that can be packed.
    pub const GROUP_SIZES: [i32; 3] = [32, 64, 128];

    /// Checks that MLX has kernels for this packing.
    ///
    /// # Errors
    /// A sentence with what was expected and what was found.
    pub fn validate(&self) -> Result<(), String> {
        let one_of = |name: &str, allowed: &[i32], found: i32| {
            let ok = allowed.contains(&found);
            ok.then_some(())
                .ok_or_else(|| format!("{name} must be one of {allowed:?}, found {found}"))
        };
        one_of("bits", &Self::BITS, self.bits)?;
        one_of("group_size", &Self::GROUP_SIZES, self.group_size)
    }

    /// Returns whether the dense weight of module `path` with `input_dims` columns is to be packed.
    ///
    /// Towers and connectors stay as they are, as in the mlx-community checkpoints: they are small,
    /// and what is seen suffers from packing.
    pub(crate) fn applies_to(&self, path: &str, input_dims: i32) -> bool {
        const SKIPPED: [&str; 8] = [
            "vision",
            "visual",
            "aligner",
            "vl_connector",
            "audio_",
            "img_projector",
            "multi_modal_projector",
            "patch_merge_mlp",
        ];
        input_dims % self.group_size == 0 && !SKIPPED.iter().any(|name| path.contains(name))
    }
}

impl From<Quantize> for Quantization {
    fn from(quantize: Quantize) -> Self {
        let Quantize { group_size, bits } = quantize;
        Self { group_size, bits, mode: QuantizationMode::Affine }
    }
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
    fn widths_without_a_kernel_are_refused() {
        let error = Quantize { bits: 7, group_size: 64 }.validate().unwrap_err();
        assert_eq!(error, "bits must be one of [2, 3, 4, 5, 6, 8], found 7");
        assert!(Quantize { bits: 4, group_size: 48 }.validate().is_err());
    }
}
