//! A folder that holds a model, or a GGUF file: its configuration, its weight files and what they say
//! about stopping, quantisation and images. No tensor is read here.

mod files;
mod quantization;
mod stop_tokens;
mod weight_files;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

#[cfg(feature = "hub")]
pub(crate) use self::weight_files::{INDEX, shards_of_index, stays_inside};
pub(crate) use self::{
    files::{read_bytes, read_json_if_any, read_text_if_any},
    quantization::QuantizationConfig,
    weight_files::missing_shards,
};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{stop_tokens::add_ids, weight_files::shards};
use crate::{
    Error, Result,
    chat::ChatTemplate,
    gguf::{Gguf, is_gguf},
    models,
    tokenizer::Tokenizer,
};

/// The name of the file that makes a folder a checkpoint.
pub(crate) const CONFIG: &str = "config.json";

/// A checkpoint whose files have been found and whose configuration has been read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The folder, or the file.
    path: PathBuf,
    /// If it is a GGUF file.
    gguf: Option<Gguf>,
    config: Value,
    model_type: String,
    weight_files: Vec<PathBuf>,
    quantization: QuantizationConfig,
    preprocessor_config: Option<String>,
    processor_config: Option<String>,
    video_config: Option<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `path`, or the GGUF file there.
    ///
    /// # Errors
    /// [`Error::Config`] that names the file, if a folder has no `config.json`, a file does not say
    /// what it must, or a weight file is missing; [`Error::Io`] if one cannot be read;
    /// [`Error::UnsupportedArchitecture`] for a GGUF file of another family.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match is_gguf(path) {
            true => Self::open_file(path),
            false => Self::open_folder(path),
        }
    }

    fn open_file(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let config = gguf.config()?;
        Ok(Self {
            path: path.to_owned(),
            model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
            config,
            weight_files: vec![path.to_owned()],
            quantization: gguf.quantization(),
            preprocessor_config: None,
            processor_config: None,
            video_config: None,
            gguf: Some(gguf),
        })
    }

    fn open_folder(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let Some(config) = read_json_if_any(&path)? else {
            return Err(Error::Config {
                path: dir.to_owned(),
                reason: "not a checkpoint: expected a folder with config.json, tokenizer.json and \
                         *.safetensors, found no config.json"
                    .to_owned(),
            });
        };
        if !config.is_object() {
            return Err(Error::Config { path, reason: "expected a JSON object".to_owned() });
        }
        let model_type = match config.get("model_type") {
            Some(Value::String(model_type)) => model_type.clone(),
            found => {
                let found = found.map_or("none".to_owned(), Value::to_string);
                let reason = format!("expected `model_type` as a text, found {found}");
                return Err(Error::Config { path, reason });
            }
        };
        Ok(Self {
            quantization: QuantizationConfig::from_config(&config)
                .map_err(|reason| Error::Config { path, reason })?,
            weight_files: weight_files::resolve(dir)?,
            preprocessor_config: read_text_if_any(&dir.join("preprocessor_config.json"))?,
            processor_config: read_text_if_any(&dir.join("processor_config.json"))?,
            video_config: read_text_if_any(&dir.join("video_preprocessor_config.json"))?,
            path: dir.to_owned(),
            gguf: None,
            config,
            model_type,
        })
    }

    /// Returns the folder; `None` for a GGUF file.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.gguf.is_none().then_some(&self.path)
    }

    /// Returns the GGUF file, if it is one.
    pub(crate) fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Returns the path of what has the configuration, for messages about what it says.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir().map_or_else(|| self.path.clone(), |dir| dir.join(CONFIG))
    }

    /// Returns `config.json`, which is a JSON object, or what a GGUF file says in its place.
    pub(crate) fn config(&self) -> &Value {
        &self.config
    }

    /// Returns `model_type` of `config.json`.
    pub(crate) fn model_type(&self) -> &str {
        &self.model_type
    }

    /// Returns the weight files in the order of their names; there is at least one, and each exists.
    pub(crate) fn weight_files(&self) -> &[PathBuf] {
        &self.weight_files
    }

    /// Returns how the weights are quantised.
    pub(crate) fn quantization(&self) -> &QuantizationConfig {
        &self.quantization
    }

    /// Returns the text of `preprocessor_config.json`, if there is one.
    pub(crate) fn preprocessor_config(&self) -> Option<&str> {
        self.preprocessor_config.as_deref()
    }

    /// Returns the text of `processor_config.json`, if there is one.
    pub(crate) fn processor_config(&self) -> Option<&str> {
        self.processor_config.as_deref()
    }

    /// Returns the text of `video_preprocessor_config.json`, if there is one.
    pub(crate) fn video_config(&self) -> Option<&str> {
        self.video_config.as_deref()
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::load`], or [`Gguf::tokenizer`].
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        self.gguf.as_ref().map_or_else(|| Tokenizer::load(&self.path), Gguf::tokenizer)
    }

    /// Returns the chat template.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`], or [`Gguf::chat_template`].
    pub(crate) fn chat_template(&self) -> Result<ChatTemplate> {
        if let Some(gguf) = &self.gguf {
            return gguf.chat_template();
        }
        let usual = models::architecture(self.model_type()).ok().and_then(|known| known.template);
        ChatTemplate::load(&self.path, usual)
    }

    /// Returns every token that ends an answer: the end-of-sequence ids of
    /// `generation_config.json` and `config.json` (with its `text_config`), and the token that
    /// `tokenizer_config.json` names.
    ///
    /// The union, because checkpoints disagree with themselves: an instruction model lists the end
    /// of a turn in one file and the end of a document in another.
    ///
    /// # Errors
    /// [`Error::Config`] that names the file, if an entry is not an id.
    pub(crate) fn stop_tokens(&self, tokenizer: &Tokenizer) -> Result<BTreeSet<u32>> {
        stop_tokens::collect(&self.config_path(), self.dir(), &self.config, tokenizer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::quantize::Quantize;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
    }

    fn message(result: Result<Checkpoint>) -> String {
        result.expect_err("must be refused").to_string()
    }

    #[test]
    fn a_plain_checkpoint_opens() {
        let checkpoint = Checkpoint::open(&golden("tiny_fp32")).unwrap();
        assert_eq!(checkpoint.model_type(), "qwen2_5_vl");
        assert_eq!(checkpoint.config()["hidden_size"], 64);
        assert_eq!(checkpoint.weight_files(), [golden("tiny_fp32").join("model.safetensors")]);
        assert_eq!(checkpoint.quantization(), &QuantizationConfig::default());
        assert!(checkpoint.preprocessor_config().unwrap().contains("image_mean"));
        assert_eq!(checkpoint.processor_config(), None);
    }

    #[test]
    fn a_quantised_checkpoint_says_how() {
        let checkpoint = Checkpoint::open(&golden("tiny_q4")).unwrap();
        let expected = Quantize::default();
        assert_eq!(checkpoint.quantization().get("language_model.lm_head"), Some(expected));
        assert!(checkpoint.processor_config().unwrap().contains("image_processor"));
        let tokenizer = Tokenizer::load(&golden("tiny_q4")).unwrap();
        assert_eq!(checkpoint.stop_tokens(&tokenizer).unwrap(), BTreeSet::from([258]));
    }

    #[test]
    fn a_folder_without_config_is_not_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let text = message(Checkpoint::open(dir.path()));
        assert!(text.starts_with(dir.path().to_str().unwrap()), "{text}");
        assert!(text.contains("not a checkpoint") && text.contains("config.json"), "{text}");
    }

    #[test]
    fn a_bad_config_is_named_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), "").unwrap();
        for (config, says) in [
            ("", "not valid JSON"),
            ("{\"model_type\": \"a\"", "not valid JSON"),
            ("[]", "expected a JSON object"),
            ("{}", "expected `model_type` as a text, found none"),
            ("{\"model_type\": 3}", "expected `model_type` as a text, found 3"),
        ] {
            fs::write(dir.path().join(CONFIG), config).unwrap();
            let text = message(Checkpoint::open(dir.path()));
            assert!(text.contains(says) && text.contains("config.json"), "{config}: {text}");
        }
        fs::write(dir.path().join(CONFIG), b"{\"model_type\": \"\xff\"}").unwrap();
        assert!(message(Checkpoint::open(dir.path())).contains("not valid UTF-8"));
    }
}
