//! Gemma 3 that reads images: SigLIP before the decoder of Gemma 3, whose features are means over squares
//! of patches. The features of an image see each other, whatever their order.
//!
//! ```text
//! frame -> SigLIP -> mean of each square of patches -> norm -> product -> features
//! ```
//!
//! Sources: arXiv:2503.19786; transformers `modeling_gemma3.py`, `processing_gemma3.py`.

use mlx_rs::{Array, error::Result as MlxResult, ops};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    Media, Seen, Wrap, gemma3,
    vision::{Vit, VitConfig},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{Result, guard::TowerFootprint, nn::RmsNorm, rope::Positions, weights::Scope};

pub(super) const FAMILY: Family = Family {
    text: gemma3::spec,
    tower: vlm::fields::<Config>,
    choices: Choices {
        rename: vlm::usual_name,
        image_token: 262_144,
        video_token: None,
        tokens_per_second: None,
        wrap: Some(Wrap {
            marker: "<start_of_image>",
            text: |_| "\n\n<start_of_image><image_soft_token><end_of_image>\n\n".to_owned(),
        }),
        places,
        whole_prompt: false,
    },
};

/// Positions as of text; the tokens of an image are read together.
fn places(ids: &[u32], seen: &[Seen], media: &Media) -> Result<Positions> {
    let mut positions = vlm::in_a_row(ids, seen, media)?;
    let mut at = 0;
    for run in ids.chunk_by(|&a, &b| media.is_placeholder(a) == media.is_placeholder(b)) {
        if media.is_placeholder(run[0]) {
            positions.together.push(at..at + run.len());
        }
        at += run.len();
    }
    Ok(positions)
}

/// The fields of `config.json`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vision_config: VitConfig,
    /// A square: so many rows of so many features.
    #[serde(default = "features")]
    mm_tokens_per_image: i32,
}

fn features() -> i32 {
    256
}

impl Config {
    /// Patches that become one feature, along each side.
    fn pool(&self) -> i32 {
        let side = f64::from(self.mm_tokens_per_image).sqrt() as i32;
        self.vision_config.side() / side.max(1)
    }
}

impl TowerConfig for Config {
    fn footprint(&self, hidden: i32) -> TowerFootprint {
        let together = u64::from(self.mm_tokens_per_image.unsigned_abs());
        TowerFootprint { together, ..self.vision_config.footprint(self.pool(), hidden) }
    }

    fn validate(&self, _hidden: i32) -> Result<(), String> {
        self.vision_config.validate(1)?;
        let (side, pool) = (self.vision_config.side(), self.pool());
        let made = if pool > 0 { (side / pool) * (side / pool) } else { 0 };
        match made == self.mm_tokens_per_image && side % pool == 0 {
            true => Ok(()),
            false => Err(format!(
                "frames of {side} x {side} patches do not divide into `mm_tokens_per_image` {}",
                self.mm_tokens_per_image
            )),
        }
    }

    fn load(&self, root: &Scope<'_>, hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        let vit = &self.vision_config;
        let projector = root.sub("multi_modal_projector");
        let (name, shape) = ("mm_input_projection_weight", [vit.hidden(), hidden]);
        let norm = projector.sub("mm_soft_emb_norm");
        let siglip = &root.sub("vision_tower.vision_model");
        Ok(Box::new(Tower {
            siglip: Vit::load(vit, siglip, vit.depth(), true)?,
            norm: RmsNorm::load_add_one(&norm, vit.hidden(), vit.eps())?,
            projection: projector.take(name, &shape)?,
            side: vit.side(),
            pool: self.pool(),
            hidden,
        }))
    }
}

#[derive(Debug)]
struct Tower {
    siglip: Vit,
    norm: RmsNorm,
    /// `[E, hidden]`.
    projection: Array,
    /// Patches along a side of a frame.
    side: i32,
    pool: i32,
    hidden: i32,
}

impl vlm::Tower for Tower {
    fn encode(&self, pixels: &Array, _grid: Grid) -> MlxResult<Array> {
        let x = self.siglip.forward(pixels)?; // [F, N, E]
        let (pool, cells) = (self.pool, self.side / self.pool);
        let squares = x.reshape(&[-1, cells, pool, cells, pool, x.dim(2)])?;
        let means = squares.mean_axes(&[2, 4], false)?; // [F, cells, cells, E]
        ops::matmul(self.norm.forward(&means)?, &self.projection)?.reshape(&[-1, self.hidden])
    }
}
