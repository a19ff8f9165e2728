//! A model that reads text only: a decoder by itself.

use std::path::Path;

use serde_json::Value;

use super::{
    VisionLanguageModel,
    decoder::{Decoder, Spec},
    text_config::TextConfig,
};
use crate::{
    Error, Result,
    device::Backend,
    guard::{Footprint, TowerFootprint},
    weights::Weights,
};

/// Says what a family's decoder is made of.
pub(super) type Family = fn(&TextConfig) -> Result<Spec, String>;

/// The whole model.
#[derive(Debug)]
pub(super) struct Model {
    decoder: Decoder,
    context_tokens: usize,
}

/// Returns the name that this file uses for a tensor.
pub(super) fn rename(name: &str) -> Option<String> {
    (!name.contains("rotary_emb.inv_freq")).then(|| name.to_owned())
}

/// Reads what the decoder of `family` is made of from `config`, the JSON of the file at `path`.
pub(super) fn spec(family: Family, config: &Value, path: &Path) -> Result<Spec> {
    let spec = TextConfig::read(config).and_then(|config| {
        let spec = family(&config)?;
        spec.validate().map(|()| spec)
    });
    spec.map_err(|reason| Error::Config { path: path.to_owned(), reason })
}

/// Returns the sizes that decide how much memory the model takes.
pub(super) fn footprint(family: Family, config: &Value, path: &Path) -> Result<Footprint> {
    let decoder = spec(family, config, path)?.footprint();
    Ok(Footprint { tower: TowerFootprint::default(), decoder })
}

impl Model {
    /// Reads `config` (the JSON of the file at `path`) and takes the tensors of `weights`.
    pub(super) fn load(
        family: Family,
        config: &Value,
        path: &Path,
        weights: &Weights,
        backend: Backend,
    ) -> Result<Self> {
        let spec = spec(family, config, path)?;
        let decoder = Decoder::load(&spec, &weights.root(), backend)?;
        Ok(Self { decoder, context_tokens: spec.context_tokens })
    }
}

impl VisionLanguageModel for Model {
    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }
}
