//! The sizes of published checkpoints.

use serde_json::{Value, json};

/// What decides the shapes of a Qwen2.5-VL checkpoint. Source: the `config.json` of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    pub(crate) vocabulary: usize,
    pub(crate) tied: bool,
    /// 4 bits in groups of 64, for everything but the tower.
    pub(crate) packed: bool,
    pub(crate) tower: Tower,
}

/// The vision tower, which all sizes share but for the width of its features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tower {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) blocks: usize,
    pub(crate) heads: usize,
}

const TOWER: Tower = Tower { hidden: 1280, inner: 3420, blocks: 32, heads: 16 };

/// Inputs that share a scale where weights are packed.
pub(crate) const GROUP: usize = 64;

const SEVEN: Geometry = Geometry {
    name: "7b-4bit",
    hidden: 3584,
    inner: 18_944,
    layers: 28,
    heads: 28,
    key_heads: 4,
    vocabulary: 152_064,
    tied: false,
    packed: true,
    tower: TOWER,
};

const THREE: Geometry = Geometry {
    name: "3b",
    hidden: 2048,
    inner: 11_008,
    layers: 36,
    heads: 16,
    key_heads: 2,
    vocabulary: 151_936,
    tied: true,
    packed: false,
    tower: TOWER,
};

const GEOMETRIES: [Geometry; 4] = [
    SEVEN,
    THREE,
    Geometry { name: "3b-4layers", layers: 4, tower: Tower { blocks: 4, ..TOWER }, ..THREE },
    // The decoder of Qwen2.5-0.5B, which has no tower of its own.
    Geometry {
        name: "0.5b-4bit",
        hidden: 896,
        inner: 4864,
        layers: 24,
        heads: 14,
        key_heads: 2,
        packed: true,
        tower: Tower { hidden: 320, inner: 860, blocks: 8, heads: 4 },
        ..THREE
    },
];

impl Geometry {
    pub(crate) fn find(name: &str) -> Option<Self> {
        GEOMETRIES.into_iter().find(|geometry| geometry.name == name)
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Fills the sizes into the `config.json` of a small checkpoint.
    pub(crate) fn configure(&self, config: &mut Value) {
        let eighth = self.head_dim() / 8;
        let mut sizes = json!({
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 128_000,
            "rope_scaling": {"type": "mrope", "mrope_section": [eighth, eighth * 3 / 2, eighth * 3 / 2]},
        });
        for key in ["quantization", "quantization_config"] {
            match self.packed {
                true => sizes[key] = json!({"group_size": GROUP, "bits": 4, "mode": "affine"}),
                false => {
                    config.as_object_mut().and_then(|config| config.remove(key));
                }
            }
        }
        let full: Vec<usize> = (1..=4).map(|i| self.tower.blocks * i / 4 - 1).collect();
        let vision = json!({
            "depth": self.tower.blocks,
            "hidden_size": self.tower.hidden,
            "intermediate_size": self.tower.inner,
            "num_heads": self.tower.heads,
            "out_hidden_size": self.hidden,
            "fullatt_block_indexes": full,
        });
        for (into, from) in [("vision_config", vision), ("", sizes)] {
            let target = if into.is_empty() { &mut *config } else { &mut config[into] };
            if let (Some(target), Value::Object(from)) = (target.as_object_mut(), from) {
                target.extend(from);
            }
        }
    }
}
