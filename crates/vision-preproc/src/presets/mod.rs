//! The published configurations of well-known models, by name.

use serde_json::Value;

use crate::keys::of_both_files;
use crate::{Error, FrameProcessor, ImageProcessor, Mode};

/// Name and content of each file, in the order of [`PRESETS`].
const FILES: [(&str, &str); 10] = [
    ("clip-224", include_str!("clip-224.json")),
    ("clip-336", include_str!("clip-336.json")),
    ("llava-pad-336", include_str!("llava-pad-336.json")),
    ("qwen2-vl", include_str!("qwen2-vl.json")),
    ("qwen2.5-vl", include_str!("qwen2.5-vl.json")),
    ("qwen3-vl", include_str!("qwen3-vl.json")),
    ("siglip-224", include_str!("siglip-224.json")),
    ("siglip-384", include_str!("siglip-384.json")),
    ("smolvlm-384", include_str!("smolvlm-384.json")),
    ("smolvlm-512", include_str!("smolvlm-512.json")),
];

/// The names that [`Preprocessor::preset`] knows.
///
/// The number is the side of a frame. `llava-pad-336` is LLaVA 1.5 with `image_aspect_ratio: pad`; `smolvlm-384` is the
/// model of 2.2 billion parameters and `smolvlm-512` are the smaller ones.
pub const PRESETS: [&str; FILES.len()] = {
    let mut names = [""; FILES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = FILES[index].0;
        index += 1;
    }
    names
};

/// The preprocessing of any supported model: what it makes of an image depends on the family.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Preprocessor {
    /// Patch rows for any size of image: Qwen2-VL, Qwen2.5-VL, Qwen3-VL.
    Patches(ImageProcessor),
    /// Frames of one size: CLIP, SigLIP, LLaVA, SmolVLM.
    Frames(FrameProcessor),
}

impl Preprocessor {
    /// The preprocessor that `preprocessor_config.json` describes; `image_processor_type` decides about the family.
    ///
    /// # Errors
    /// [`Error::Config`] if it is no JSON object, names a processor that is not supported, or holds an unusable value.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_configs(Some(text), None)
    }

    /// As [`Preprocessor::from_json`], of both configuration files of a model; keys of `image_processor` in `processor`
    /// win over `preprocessor`.
    ///
    /// # Errors
    /// As for [`Preprocessor::from_json`].
    pub fn from_configs(
        preprocessor: Option<&str>,
        processor: Option<&str>,
    ) -> Result<Self, Error> {
        let keys = of_both_files(preprocessor, processor)?;
        let kind = keys.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
        if FrameProcessor::knows(kind) {
            return FrameProcessor::from_keys(&keys).map(Self::Frames);
        }
        ImageProcessor::from_keys(&keys).map(Self::Patches)
    }

    /// A preprocessor by one of the names in [`PRESETS`].
    ///
    /// # Errors
    /// [`Error::Config`] if there is none of that name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        let file = FILES.iter().find(|(known, _)| *known == name);
        let (_, text) = file.ok_or_else(|| {
            Error::config("preset", format!("expected one of {}, found {name}", PRESETS.join(", ")))
        })?;
        Self::from_json(text)
    }

    /// Replaces the mode, which is [`Mode::Exact`].
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        match self {
            Self::Patches(processor) => Self::Patches(processor.with_mode(mode)),
            Self::Frames(processor) => Self::Frames(processor.with_mode(mode)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_sound_and_others_are_named_as_unknown() {
        for name in PRESETS {
            let patches = matches!(Preprocessor::preset(name).unwrap(), Preprocessor::Patches(_));
            assert_eq!(patches, name.starts_with("qwen"), "{name}");
        }
        let error = Preprocessor::preset("qwen").unwrap_err().to_string();
        assert!(error.contains("clip-224, clip-336"), "{error}");
        assert!(Preprocessor::from_json("[]").is_err());
        assert!(Preprocessor::from_json("{}").is_err());
    }
}
