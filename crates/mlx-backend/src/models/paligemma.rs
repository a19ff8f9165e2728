//! PaliGemma: SigLIP before the decoder of Gemma, whose features are one product away. It answers one question, and
//! all tokens of that, and the features before it, see each other.
//!
//! ```text
//! frame -> SigLIP -> linear -> features
//! features, question | answer      those before the line see all of them, the others what is before them
//! ```
//!
//! Sources: arXiv:2407.07726; transformers `modeling_paligemma.py`, `processing_paligemma.py`.

use mlx_rs::{Array, error::Result as MlxResult};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    Media, Seen,
    decoder::Spec,
    gemma,
    text_config::TextConfig,
    vision::{Vit, VitConfig},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{Result, guard::TowerFootprint, nn::Linear, rope::Positions, weights::Scope};

pub(super) const FAMILY: Family = Family {
    text,
    tower: vlm::fields::<Config>,
    choices: Choices {
        rename: vlm::usual_name,
        image_token: 257_152,
        video_token: None,
        wrap: None,
        tokens_per_second: None,
        places,
        whole_prompt: true,
    },
};

/// What `processing_paligemma.py` writes; checkpoints have no template.
pub(super) const TEMPLATE: &str = "\
{%- if messages | length != 1 or messages[0].role != 'user' -%}\
{{ raise_exception('PaliGemma takes one message, of a user') }}\
{%- endif -%}\
{%- set content = messages[0].content -%}\
{%- if content is string -%}<bos>{{ content }}\
{%- else -%}\
{%- for part in content if part.type == 'image' -%}<image>{%- endfor -%}\
<bos>{%- for part in content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}\
{%- endif -%}\
{{ '\\n' }}";

fn text(config: &TextConfig) -> Result<Spec, String> {
    match config.text_model_type.as_deref() {
        Some("gemma") | None => gemma::spec(config),
        Some(other) => Err(format!("text_config: expected `model_type` gemma, found {other}")),
    }
}

/// Positions as of text; all of a prompt is read together.
fn places(ids: &[u32], grids: &[Seen], media: &Media) -> Result<Positions> {
    let mut positions = vlm::in_a_row(ids, grids, media)?;
    positions.together.push(0..ids.len());
    Ok(positions)
}

/// The fields of `config.json`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vision_config: VitConfig,
}

impl TowerConfig for Config {
    fn footprint(&self, hidden: i32) -> TowerFootprint {
        // However long the prompt is.
        TowerFootprint { together: u64::MAX, ..self.vision_config.footprint(1, hidden) }
    }

    fn validate(&self, _hidden: i32) -> Result<(), String> {
        self.vision_config.validate(1)?;
        match self.vision_config.is_clip() {
            false => Ok(()),
            true => Err("vision_config: expected `model_type` siglip_vision_model".to_owned()),
        }
    }

    fn load(&self, root: &Scope<'_>, hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        let vit = &self.vision_config;
        let projector = root.sub("multi_modal_projector.linear");
        let siglip = &root.sub("vision_tower.vision_model");
        Ok(Box::new(Tower {
            siglip: Vit::load(vit, siglip, vit.depth(), true)?,
            projector: Linear::load(&projector, hidden, vit.hidden(), true)?,
            hidden,
        }))
    }
}

#[derive(Debug)]
struct Tower {
    siglip: Vit,
    projector: Linear,
    hidden: i32,
}

impl vlm::Tower for Tower {
    fn encode(&self, pixels: &Array, _grid: Grid) -> MlxResult<Array> {
        self.projector.forward(&self.siglip.forward(pixels)?)?.reshape(&[-1, self.hidden])
    }
}
