//! Idefics 3 and `SmolVLM`: a Llama decoder, and SigLIP before it, which sees an image as tiles and as a
//! whole. Squares of patches are laid side by side and projected to become features.
//!
//! ```text
//! frame -> SigLIP -> squares of patches, side by side -> linear -> features
//! ```
//!
//! Sources: arXiv:2408.12637, arXiv:2504.05299; transformers `modeling_idefics3.py`,
//! `processing_idefics3.py`.

use mlx_rs::{Array, error::Result as MlxResult};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    Wrap, llama,
    vision::{Vit, VitConfig},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{Result, guard::TowerFootprint, image_reader::Tiles, nn::Linear, weights::Scope};

pub(super) const FAMILY: Family = Family {
    text: llama::spec,
    tower: vlm::fields::<Config>,
    choices: Choices {
        rename,
        image_token: 128_257,
        video_token: None,
        wrap: Some(Wrap { marker: "<image>", text: tiles }),
        tokens_per_second: None,
        places: vlm::in_a_row,
        whole_prompt: false,
    },
};

fn rename(name: &str) -> Option<String> {
    // From the most to the least specific; the last three are mlx-vlm's.
    const LAYOUTS: [(&str, &str); 7] = [
        ("model.vision_model.", "vision_tower."),
        ("model.connector.", "connector."),
        ("model.text_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("vision_model.", "vision_tower."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("language_model.", "language_model.model."),
    ];
    vlm::rename(&LAYOUTS, name)
}

/// What stands for an image: its tiles by row and column, then the whole.
fn tiles(Tiles { rows, columns }: Tiles) -> String {
    let mut text = String::new();
    for row in 1..=rows {
        for column in 1..=columns {
            text += &format!("<fake_token_around_image><row_{row}_col_{column}><image>");
        }
        text += "\n";
    }
    if rows > 0 {
        text += "\n";
    }
    text + "<fake_token_around_image><global-img><image><fake_token_around_image>"
}

/// The fields of `config.json`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vision_config: VitConfig,
    /// Patches that become one feature, along each side.
    #[serde(default = "two")]
    scale_factor: i32,
}

fn two() -> i32 {
    2
}

impl TowerConfig for Config {
    fn footprint(&self, hidden: i32) -> TowerFootprint {
        self.vision_config.footprint(self.scale_factor, hidden)
    }

    fn validate(&self, _hidden: i32) -> Result<(), String> {
        self.vision_config.validate(self.scale_factor)
    }

    fn load(&self, root: &Scope<'_>, hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        let (vit, scale) = (&self.vision_config, self.scale_factor);
        let square = vit.hidden() * scale * scale;
        let proj = root.sub("connector.modality_projection.proj");
        Ok(Box::new(Tower {
            siglip: Vit::load(vit, &root.sub("vision_tower"), vit.depth(), true)?,
            proj: Linear::load(&proj, hidden, square, false)?,
            side: vit.side(),
            scale,
            hidden,
        }))
    }
}

#[derive(Debug)]
struct Tower {
    siglip: Vit,
    proj: Linear,
    /// Patches along a side of a frame.
    side: i32,
    scale: i32,
    hidden: i32,
}

impl vlm::Tower for Tower {
    fn encode(&self, pixels: &Array, _grid: Grid) -> MlxResult<Array> {
        let x = self.siglip.forward(pixels)?; // [F, N, E]
        let (frames, e, s, cells) = (x.dim(0), x.dim(2), self.scale, self.side / self.scale);
        let squares = x.reshape(&[frames, cells, s, cells, s, e])?;
        let squares = squares.transpose_axes(&[0, 1, 3, 2, 4, 5])?;
        let squares = squares.reshape(&[frames, cells * cells, s * s * e])?;
        self.proj.forward(&squares)?.reshape(&[-1, self.hidden])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_come_before_the_whole() {
        let whole = "<fake_token_around_image><global-img><image><fake_token_around_image>";
        assert_eq!(tiles(Tiles::default()), whole);
        let tile =
            |row, column| format!("<fake_token_around_image><row_{row}_col_{column}><image>");
        let expected =
            format!("{}{}\n{}{}\n\n{whole}", tile(1, 1), tile(1, 2), tile(2, 1), tile(2, 2));
        assert_eq!(tiles(Tiles { rows: 2, columns: 2 }), expected);
    }

    #[test]
    fn every_layout_leads_to_the_same_names() {
        for (name, expected) in [
            (
                "model.text_model.layers.0.mlp.up_proj.weight",
                "language_model.model.layers.0.mlp.up_proj.weight",
            ),
            (
                "language_model.layers.0.mlp.up_proj.weight",
                "language_model.model.layers.0.mlp.up_proj.weight",
            ),
            ("lm_head.weight", "language_model.lm_head.weight"),
            ("language_model.lm_head.weight", "language_model.lm_head.weight"),
            ("model.vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
            ("vision_model.post_layernorm.bias", "vision_tower.post_layernorm.bias"),
        ] {
            assert_eq!(rename(name).as_deref(), Some(expected));
        }
    }
}
