//! The sizes of an architecture that decide how much memory it takes, as data that its model file
//! gives, so that the guard knows no architecture.

/// The sizes of a vision-language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) tower: TowerFootprint,
    pub(crate) decoder: DecoderFootprint,
}

/// The sizes of a vision tower: counts of values, heads and patches; of none, zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TowerFootprint {
    /// Values of a patch of a still image in the input: those of one of its frames.
    pub(crate) patch_values: u64,
    /// Values of a patch between blocks.
    pub(crate) hidden: u64,
    /// Values of a patch inside an MLP.
    pub(crate) inner: u64,
    pub(crate) heads: u64,
    pub(crate) head_dim: u64,
    /// Patches that a feature joins, along each side.
    pub(crate) merge: u64,
    /// Values of a feature.
    pub(crate) features: u64,
    /// Most patches of a window.
    pub(crate) window_patches: u64,
    /// For towers that take frames of one size.
    pub(crate) frame: Option<FrameFootprint>,
    /// Features of an image that the decoder must read in one step; 0 if it may take any number.
    pub(crate) together: u64,
}

/// A frame and its patches, both square: pixels along a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameFootprint {
    pub(crate) side: u32,
    pub(crate) patch: u32,
}

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecoderFootprint {
    pub(crate) layers: u64,
    /// Values of a token between layers.
    pub(crate) hidden: u64,
    /// Values of a token inside an MLP.
    pub(crate) inner: u64,
    pub(crate) heads: u64,
    pub(crate) key_value_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocabulary: u64,
    /// Whether there are layers in which a token sees the last ones only.
    pub(crate) windows: bool,
}

/// Multiplies without wrapping: what does not fit into 64 bits fits into no memory either, so it
/// becomes the largest number.
pub(crate) fn product(factors: &[u64]) -> u64 {
    let exact = factors.iter().try_fold(1u128, |n, &f| n.checked_mul(u128::from(f)));
    // A zero after an overflow would still make it zero.
    match factors.contains(&0) {
        true => 0,
        false => exact.and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX),
    }
}

/// Adds without wrapping, as [`product`] multiplies.
pub(crate) fn sum(terms: impl IntoIterator<Item = u64>) -> u64 {
    terms.into_iter().fold(0, u64::saturating_add)
}

/// Returns the bytes of the scores of one attention over `patches` if they are held at once:
/// `heads * patches² * value_bytes`.
///
/// Nothing here allocates them; it is what an engine without fused attention or chunks needs, and
/// what the reports of failed allocations show.
pub(crate) fn whole_score_bytes(heads: u64, patches: u64, value_bytes: u64) -> u64 {
    product(&[heads, patches, patches, value_bytes])
}

impl DecoderFootprint {
    /// Returns the bytes of keys and values of one token in all layers.
    pub(crate) fn token_bytes(&self, value_bytes: u64) -> u64 {
        product(&[self.layers, 2, self.key_value_heads, self.head_dim, value_bytes])
    }
}

#[cfg(test)]
mod tests {
    use vision_preproc::{Size, smart_resize};

    use super::*;

    /// Height, width, patches, tokens and bytes of scores at a cap.
    type Row = (u32, u32, u64, u64, u64);

    const FULL: u64 = 12_845_056;
    const USUAL: u64 = 1_003_520;
    /// For sources of height and width: what they become at the cap of the published checkpoints,
    /// and at the usual one where that is different.
    const TABLE: [((u32, u32), Row, Row); 8] = [
        (
            (4032, 3024),
            (4032, 3024, 62_208, 15_552, 123_834_728_448),
            (1148, 840, 4_920, 1_230, 774_604_800),
        ),
        (
            (5712, 4284),
            (4116, 3080, 64_680, 16_170, 133_872_076_800),
            (1148, 840, 4_920, 1_230, 774_604_800),
        ),
        (
            (2625, 4363),
            (2632, 4368, 58_656, 14_664, 110_096_842_752),
            (756, 1288, 4_968, 1_242, 789_792_768),
        ),
        (
            (1080, 1920),
            (1092, 1932, 10_764, 2_691, 3_707_638_272),
            (728, 1316, 4_888, 1_222, 764_561_408),
        ),
        ((768, 1024), (756, 1036, 3_996, 999, 510_976_512), (756, 1036, 3_996, 999, 510_976_512)),
        ((480, 640), (476, 644, 1_564, 391, 78_275_072), (476, 644, 1_564, 391, 78_275_072)),
        ((512, 384), (504, 392, 1_008, 252, 32_514_048), (504, 392, 1_008, 252, 32_514_048)),
        ((336, 336), (336, 336, 576, 144, 10_616_832), (336, 336, 576, 144, 10_616_832)),
    ];

    /// Sizes follow from `smart_resize`, and the scores of 16 heads in bf16 from them, exactly.
    #[test]
    fn every_row_of_the_cost_table() {
        for ((height, width), full, usual) in TABLE {
            for (cap, (h, w, patches, tokens, bytes)) in [(FULL, full), (USUAL, usual)] {
                let source = Size { width, height };
                let resized = smart_resize(source, 28, 3136, cap).unwrap();
                assert_eq!((resized.height, resized.width), (h, w), "{source} at {cap}");
                let found = u64::from(resized.height / 14) * u64::from(resized.width / 14);
                assert_eq!((found, found / 4), (patches, tokens), "{source} at {cap}");
                assert_eq!(whole_score_bytes(16, found, 2), bytes, "{source} at {cap}");
            }
        }
    }

    /// Failed allocations that users of four engines reported, in bytes.
    #[test]
    fn reported_allocations_are_scores_held_at_once() {
        for (reported, patches, value_bytes) in [
            (123_834_728_448, 62_208, 2),
            (133_872_076_800, 64_680, 2),
            (135_433_060_352, 65_056, 2),
            (135_383_101_952, 65_044, 2),
            (48_736_917_632, 39_026, 2),
            (51_619_840_000, 28_400, 4),
        ] {
            assert_eq!(whole_score_bytes(16, patches, value_bytes), reported);
        }
        // One that was rounded: 33.9 GB for 8140 image tokens, 19.6 GB for 6188.
        for (tokens, tenths) in [(8140, 339), (6188, 196)] {
            let bytes = whole_score_bytes(16, tokens * 4, 2);
            assert_eq!((bytes + 50_000_000) / 100_000_000, tenths);
        }
    }

    #[test]
    fn keys_and_values_of_the_published_models() {
        let of = |layers, key_value_heads| DecoderFootprint {
            layers,
            hidden: 0,
            inner: 0,
            heads: 0,
            key_value_heads,
            head_dim: 128,
            vocabulary: 0,
            windows: false,
        };
        assert_eq!(of(36, 2).token_bytes(2), 36_864);
        assert_eq!(of(28, 4).token_bytes(2), 57_344);
    }

    #[test]
    fn what_does_not_fit_into_64_bits_is_the_largest_number() {
        assert_eq!(product(&[u64::MAX, 1]), u64::MAX);
        assert_eq!(product(&[u64::MAX, u64::MAX, u64::MAX, 2]), u64::MAX);
        assert_eq!(product(&[u64::MAX, u64::MAX, u64::MAX, 0]), 0);
        assert_eq!(product(&[1 << 32, 1 << 32]), u64::MAX);
        assert_eq!(product(&[1 << 32, 1 << 31]), 1 << 63);
        assert_eq!(sum([u64::MAX, 1]), u64::MAX);
        assert_eq!(whole_score_bytes(16, u64::from(u32::MAX), 4), u64::MAX);
    }
}
