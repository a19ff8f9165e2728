//! A Qwen2.5-VL for tests that panics where it is told to.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use mlx_rs::{Array, error::Result as MlxResult};
use vision_preproc::Grid;

use super::{Architecture, Media, Seen, VisionLanguageModel, decoder::Decoder, qwen2_5_vl::FAMILY};
use crate::{
    Result,
    kv_cache::LayerCaches,
    rope::{Positions, Rotation},
};

/// Where it can panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Load,
    Encode,
    Positions,
    Embed,
    Prefill,
    Step,
    Logits,
    Drop,
}

static NEXT: Mutex<Option<Place>> = Mutex::new(None);

/// Has the next call of a fragile model at `place` panic, once.
pub(crate) fn break_at(place: Place) {
    *NEXT.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
}

/// Whether the panic is still to come.
pub(crate) fn is_whole() -> bool {
    NEXT.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

fn at(place: Place) {
    let broken = NEXT.lock().unwrap_or_else(PoisonError::into_inner).take_if(|next| *next == place);
    assert!(broken.is_none(), "broken at {place:?}");
}

#[derive(Debug)]
struct Fragile(Box<dyn VisionLanguageModel>);

pub(crate) static ARCHITECTURE: Architecture = Architecture {
    model_type: "fragile",
    about: "",
    reads_images: true,
    template: None,
    reads_videos: None,
    rename: FAMILY.choices.rename,
    footprint: |config, path| FAMILY.footprint(config, path),
    load: |config, path, weights, _| {
        at(Place::Load);
        Ok(Box::new(Fragile(Box::new(FAMILY.load(config, path, weights)?))))
    },
};

impl Drop for Fragile {
    fn drop(&mut self) {
        at(Place::Drop);
    }
}

impl VisionLanguageModel for Fragile {
    fn media(&self) -> Option<&Media> {
        self.0.media()
    }

    fn context_tokens(&self) -> usize {
        self.0.context_tokens()
    }

    fn decoder(&self) -> &Decoder {
        self.0.decoder()
    }

    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        at(Place::Encode);
        self.0.encode(patches, grid)
    }

    fn positions(&self, ids: &[u32], seen: &[Seen]) -> Result<Positions> {
        at(Place::Positions);
        self.0.positions(ids, seen)
    }

    fn embed(&self, ids: &Array) -> MlxResult<Array> {
        at(Place::Embed);
        self.0.embed(ids)
    }

    fn merge(&self, embeddings: &Array, ids: &[u32], features: &[Array]) -> MlxResult<Array> {
        self.0.merge(embeddings, ids, features)
    }

    fn prompt_rotation(&self, positions: &Positions, range: Range<usize>) -> MlxResult<Rotation> {
        self.0.prompt_rotation(positions, range)
    }

    fn forward(
        &self,
        x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Array> {
        let is_step = matches!(rotation, Rotation::Rows(..)) || x.dim(1) == 1;
        at(if is_step { Place::Step } else { Place::Prefill });
        self.0.forward(x, rotation, caches)
    }

    fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        at(Place::Logits);
        self.0.logits(hidden)
    }
}
