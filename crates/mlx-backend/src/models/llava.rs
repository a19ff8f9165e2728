//! LLaVA 1.5: a Llama decoder, and CLIP before it, whose last block but one gives the features; an MLP
//! makes them as wide as what the decoder reads.
//!
//! ```text
//! frame -> CLIP, blocks 0 .. n - 2 -> linear -> GELU -> linear -> features
//! ```
//!
//! Sources: arXiv:2310.03744; transformers `modeling_llava.py`.

use mlx_rs::{Array, error::Result as MlxResult};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    decoder::Spec,
    llama,
    text_config::TextConfig,
    vision::{Vit, VitConfig},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{
    Result,
    guard::TowerFootprint,
    nn::{Activation, TwoLayerMlp},
    weights::Scope,
};

pub(super) const FAMILY: Family = Family {
    text,
    tower: vlm::fields::<Config>,
    choices: Choices {
        rename: vlm::usual_name,
        image_token: 32_000,
        video_token: None,
        wrap: None,
        tokens_per_second: None,
        places: vlm::in_a_row,
        whole_prompt: false,
    },
};

/// Vicuna of 7 billion parameters, of which published configurations say what differs from it.
fn text(config: &TextConfig) -> Result<Spec, String> {
    let mut complete = config.clone();
    complete.hidden_size.get_or_insert(4096);
    complete.num_hidden_layers.get_or_insert(32);
    complete.intermediate_size.get_or_insert(11_008);
    complete.num_attention_heads.get_or_insert(32);
    complete.vocab_size.get_or_insert(32_064);
    match config.model_type.as_deref() {
        Some("llama" | "llava") | None => llama::spec(&complete),
        Some(other) => Err(format!("text_config: expected `model_type` llama, found {other}")),
    }
}

/// The fields of `config.json`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vision_config: VitConfig,
    /// Which block gives the features; counted from the last if below 0.
    #[serde(default = "last_but_one")]
    vision_feature_layer: i32,
    /// `default` leaves the class out.
    vision_feature_select_strategy: Option<String>,
}

fn last_but_one() -> i32 {
    -2
}

impl Config {
    /// Blocks up to the one that gives the features.
    fn depth(&self) -> Option<usize> {
        let depth = self.vision_config.depth();
        let at = match self.vision_feature_layer {
            at @ 0.. => Some(at as usize),
            from_last => (depth + 1).checked_sub(from_last.unsigned_abs() as usize),
        };
        at.filter(|&at| at <= depth)
    }
}

impl TowerConfig for Config {
    fn footprint(&self, hidden: i32) -> TowerFootprint {
        self.vision_config.footprint(1, hidden)
    }

    fn validate(&self, _hidden: i32) -> Result<(), String> {
        self.vision_config.validate(1)?;
        if self.depth().is_none() {
            return Err(format!(
                "expected a `vision_feature_layer` of {} blocks, found {}",
                self.vision_config.depth(),
                self.vision_feature_layer
            ));
        }
        if !self.vision_config.is_clip() {
            return Err("vision_config: expected `model_type` clip_vision_model".to_owned());
        }
        match self.vision_feature_select_strategy.as_deref() {
            Some("default") | None => Ok(()),
            Some(found) => {
                Err(format!("expected `vision_feature_select_strategy` default, found {found}"))
            }
        }
    }

    fn load(&self, root: &Scope<'_>, hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        let (vit, depth) = (&self.vision_config, self.depth().unwrap_or_default());
        let (dims, names) = ((vit.hidden(), hidden, hidden), ["linear_1", "linear_2"]);
        let projector = &root.sub("multi_modal_projector");
        Ok(Box::new(Tower {
            clip: Vit::load(vit, &root.sub("vision_tower.vision_model"), depth, false)?,
            projector: TwoLayerMlp::load(projector, names, dims, Activation::Gelu)?,
            hidden,
        }))
    }
}

#[derive(Debug)]
struct Tower {
    clip: Vit,
    projector: TwoLayerMlp,
    hidden: i32,
}

impl vlm::Tower for Tower {
    fn encode(&self, pixels: &Array, _grid: Grid) -> MlxResult<Array> {
        self.projector.forward(&self.clip.forward(pixels)?)?.reshape(&[-1, self.hidden])
    }
}
