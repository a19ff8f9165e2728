//! What a checkpoint says of itself.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use llm_core::Capabilities;
use safetensors::Dtype;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Result,
    checkpoint::Checkpoint,
    grammar::Grammars,
    models,
    provider::{Reads, capabilities, image_reader, video_processor},
    quantize::Quantize,
    weights::read_header,
};

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ModelDescription {
    /// The family: `model_type` of its `config.json`, or the architecture of a GGUF file.
    pub family: String,
    /// Why this crate cannot run it, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsupported: Option<String>,
    /// How most of its layers are packed; absent for a full checkpoint.
    pub quantize: Option<Quantize>,
    /// Whether some layers are packed otherwise than most.
    pub mixed: bool,
    /// What most of its floats are stored as, such as `bf16`; scales too, if it is packed.
    pub float_type: Option<String>,
    /// Bytes of the weight files.
    pub weight_bytes: u64,
    /// Most tokens of prompt and answer together, if it says.
    pub context_tokens: Option<u64>,
    /// What it can do here; nothing if it cannot be run.
    pub capabilities: Capabilities,
}

/// Reads what the checkpoint in `folder`, or the GGUF file there, says of itself: its configuration and the
/// headers of its weights.
///
/// # Errors
/// If it is no checkpoint, a weight file is missing, or a file does not say what it must.
pub fn describe(folder: &Path) -> Result<ModelDescription> {
    let checkpoint = Checkpoint::open(folder)?;
    let architecture = models::architecture(checkpoint.model_type()).and_then(|architecture| {
        (architecture.footprint)(checkpoint.config(), &checkpoint.config_path())?;
        Ok(architecture)
    });
    let (unsupported, capabilities) = match architecture {
        Ok(architecture) => {
            let tokenizer = Arc::new(checkpoint.tokenizer()?);
            let stops = Arc::new(checkpoint.stop_tokens(&tokenizer)?);
            let template = checkpoint.chat_template();
            let videos = |template| video_processor(&checkpoint, architecture, template);
            let reads = Reads {
                images: image_reader(&checkpoint, architecture)?.is_some(),
                videos: template.as_ref().is_ok_and(|t| videos(t).is_ok_and(|v| v.is_some())),
            };
            let tools = template.is_ok_and(|template| template.knows_tools());
            (None, capabilities(reads, &Grammars::new(tokenizer, stops), tools))
        }
        Err(error) => (Some(error.to_string()), Capabilities::default()),
    };
    let quantization = checkpoint.quantization();
    let default = quantization.default;
    let own = quantization.per_path.values();
    Ok(ModelDescription {
        family: checkpoint.model_type().to_owned(),
        unsupported,
        quantize: default.or_else(|| own.clone().flatten().next().copied()),
        mixed: own.clone().any(|how| *how != default),
        float_type: float_type(&checkpoint)?,
        weight_bytes: weight_bytes(&checkpoint)?,
        context_tokens: context_tokens(checkpoint.config()),
        capabilities,
    })
}

fn context_tokens(config: &Value) -> Option<u64> {
    let of = |config: &Value| config.get("max_position_embeddings")?.as_u64();
    config.get("text_config").and_then(of).or_else(|| of(config))
}

fn weight_bytes(checkpoint: &Checkpoint) -> Result<u64> {
    let mut bytes = 0;
    for path in checkpoint.weight_files() {
        let data = fs::metadata(path).map_err(super::fail("read", path))?;
        bytes += data.len();
    }
    Ok(bytes)
}

/// Returns the type of float that takes most bytes.
fn float_type(checkpoint: &Checkpoint) -> Result<Option<String>> {
    let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
    for path in checkpoint.weight_files() {
        for info in read_header(path)?.tensors().values() {
            let name = match info.dtype {
                Dtype::F32 => "f32",
                Dtype::BF16 => "bf16",
                Dtype::F16 => "f16",
                _ => continue,
            };
            *bytes.entry(name).or_default() += info.data_offsets.1 - info.data_offsets.0;
        }
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
    Ok(most.map(|(name, _)| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use llm_core::Capability;

    use super::*;

    fn here(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    #[test]
    fn checkpoints_are_described_by_their_files() {
        let full = describe(&here("models/tiny-vl/full")).unwrap();
        assert_eq!((&*full.family, &full.unsupported), ("qwen2_5_vl", &None));
        assert_eq!((full.quantize, full.mixed), (None, false));
        assert!(full.capabilities.has(Capability::Vision));
        assert!(full.weight_bytes > 1 << 20 && full.context_tokens > Some(1024), "{full:?}");
        let packed = describe(&here("testdata/golden/tiny_q4")).unwrap();
        assert_eq!((packed.quantize, packed.mixed), (Some(Quantize::default()), false));
        let text = describe(&here("testdata/golden/tiny_fp32")).unwrap();
        assert_eq!(text.float_type.as_deref(), Some("f32"));
    }

    #[test]
    fn what_cannot_be_run_is_described_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let source = here("testdata/golden/tiny_fp32");
        fs::copy(source.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        let config = r#"{"model_type": "mamba", "max_position_embeddings": 2048}"#;
        fs::write(dir.path().join("config.json"), config).unwrap();
        let found = describe(dir.path()).unwrap();
        assert_eq!((&*found.family, found.context_tokens), ("mamba", Some(2048)));
        let why = found.unsupported.unwrap();
        assert!(why.starts_with("unsupported model_type `mamba`; supported: "), "{why}");
        assert_eq!(found.capabilities, Capabilities::default());
        assert!(describe(&dir.path().join("no-such")).is_err());
    }
}
