//! Settings as texts.

use std::{collections::BTreeMap, fmt, path::Path};

use llm_core::Result;
use serde::{Deserialize, Deserializer, de};

use crate::sources;

/// The settings of a provider as texts, for [`create_llm`](crate::create_llm).
///
/// A key that the provider does not know is an error that suggests the nearest one, so that a
/// misspelt setting is never ignored. The keys of every provider, and what is used where a request does
/// not say:
///
/// | key | value |
/// |---|---|
/// | every field of [`GenerateParams`](crate::GenerateParams) | its value; `stop` is one text or a JSON list of texts, `logit_bias` a JSON object |
///
/// The keys of the provider `mlx`:
///
/// | key | value |
/// |---|---|
/// | `model` | `tiny-vl`, a folder, or `organisation/model`; needed |
/// | `quantize` | `true` packs a full checkpoint while loading |
/// | `quantization_mode` | `affine` (default), `mxfp4`, `mxfp8` or `nvfp4`; implies `quantize` |
/// | `bits`, `group_size` | how to pack it, 4 and 64 by default in the mode `affine`; either implies `quantize` |
/// | `load_in_8bit`, `load_in_4bit` | `true` is `bits` of 8 or 4 |
/// | `compute_type` | `auto` (default), `f32`, `bf16` or `f16` |
/// | `prefill_step_tokens` | prompt tokens read at a time |
/// | `max_batch` | answers of a model that are made at a time, 16 by default |
/// | `max_queue` | requests that wait beyond those, 256 by default; further ones are refused |
/// | `kv_bits` | packs keys and values into 8 or 4 bits; `kv_group_size` is 64 and `quantized_kv_start` 5000 tokens by default |
/// | `max_kv_size` | most tokens whose keys and values are kept: the first `kv_keep_tokens`, 4 by default, and the last ones |
/// | `adapters` | a JSON object (in a file, a table) with the folders of low-rank adapters by the names that requests and `adapter` give |
/// | `prompt_lookup_tokens` | most tokens that are guessed from prompt and answer, 0 by default; greedy answers stay the same |
/// | `memory_limit` | most memory that the process may hold, a size such as `4GiB` |
/// | `memory_policy` | `fit` (default) makes a request fit into memory, `reject` refuses it |
/// | `offline` | `true` never goes to the network |
/// | `image_cache`, `feature_cache`, `prefix_cache`, `model_cache` | sizes such as `512MiB`; `0` switches one off |
/// | `models` | most models kept, 3 by default |
/// | `keep_alive` | seconds that a model is kept after its last use, 300 by default, or `forever` |
/// | `cache_dir`, `cache_dir_size` | a folder for features and prefixes, and its size, `10GiB` by default |
/// | `device` | `auto` (default), or `cpu` or `gpu` to be sure that MLX was built for it |
/// | `device_map` | `auto` (default); models are not split |
///
/// Any key about caches gives the provider caches of its own; otherwise it shares those of the process.
///
/// The keys of the providers `openai` and `anthropic`:
///
/// | key | value |
/// |---|---|
/// | `model` | the name that the server has for it; needed |
/// | `base_url` | where the interface begins, such as `http://localhost:11434/v1`; by default `OPENAI_BASE_URL` or `ANTHROPIC_BASE_URL` in the environment, or the service itself |
/// | `api_key` | by default `OPENAI_API_KEY` or `ANTHROPIC_API_KEY` in the environment, which are never sent to a `base_url` that is set here |
/// | `timeout` | most seconds for a whole answer; none by default |
/// | `connect_timeout`, `read_timeout` | most seconds for a connection, and of silence: 10 and 300 by default; `request_timeout` is `read_timeout` |
/// | `max_retries`, `retry_wait` | further tries, 2 by default, and seconds before the first of them, 0.5 by default; `retry_count` is `max_retries` |
/// | `proxy` | an address; by default `HTTPS_PROXY` and its like in the environment |
/// | `capabilities` | what the model can do, as a list of names with commas |
/// | `context_tokens` | most tokens of prompt and answer together |
/// | `organization` | who pays, for OpenAI only |
///
/// It deserialises from a map; values that are no texts become the text of their JSON:
///
/// ```
/// let json = r#"{"model": "tiny-vl", "temperature": 0.2, "stop": ["\n\n", "END"]}"#;
/// let config: abstractllm::Config = serde_json::from_str(json).unwrap();
/// assert_eq!(config.get("temperature"), Some("0.2"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Sets `key`, in place of what it was.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> &mut Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// Removes `key`, and returns its text.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    /// Returns the text of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Reads the settings of `provider` from a file, for programs with a place of their own for it; its
    /// form is told at [`create_llm`](crate::create_llm), which reads the file that the environment names.
    ///
    /// # Errors
    /// If it cannot be read, or holds what is no setting.
    pub fn read(path: impl AsRef<Path>, provider: &str) -> Result<Self> {
        sources::read_file(path.as_ref(), provider).map(Self)
    }

    /// Adds what the environment and the file that it names say of `provider`, where this says nothing, as
    /// [`create_llm`](crate::create_llm) does.
    ///
    /// # Errors
    /// That names the file or the variable, and the key that is unknown or given twice.
    pub fn with_sources(self, provider: &str) -> Result<Self> {
        sources::gather(provider, self, &sources::variables()?)
    }

    /// Iterates over keys and their texts, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn into_inner(self) -> BTreeMap<String, String> {
        self.0
    }
}

// Derived Debug would print keys, and passwords in addresses.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            self.iter().map(|(key, value)| match key.contains("key") || value.contains('@') {
                true => (key, "..."),
                false => (key, value),
            });
        f.debug_map().entries(shown).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Config {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Config {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<BTreeMap<String, String>> for Config {
    fn from(pairs: BTreeMap<String, String>) -> Self {
        Self(pairs)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
        let text = |key: &str, value: serde_json::Value| match value {
            serde_json::Value::String(text) => Ok(text),
            serde_json::Value::Null => {
                Err(de::Error::custom(format!("`{key}`: expected a value, found null")))
            }
            other => Ok(other.to_string()),
        };
        let pairs = map.into_iter().map(|(key, value)| text(&key, value).map(|text| (key, text)));
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

/// Returns the candidate that `word` may have been meant to be.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace(['-', ' '], "_");
    candidates
        .iter()
        .map(|&candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= word.len().max(candidate.len()) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Returns what to say of an unknown `word`: the nearest of `candidates`, or `otherwise`.
pub(crate) fn hint(word: &str, candidates: &[&str], otherwise: impl FnOnce() -> String) -> String {
    nearest(word, candidates).map_or_else(otherwise, |near| format!("did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let config = Config::from([
            ("api_key", "sk-secret"),
            ("proxy", "http://user:hunter2@proxy"),
            ("model", "m"),
        ]);
        let text = format!("{config:?}");
        assert_eq!(text, r#"{"api_key": "...", "model": "m", "proxy": "..."}"#);
    }

    #[test]
    fn maps_with_plain_values_deserialise() {
        let json = r#"{"top_k": 5, "offline": true, "system": "x", "stop": ["a", "b"],
            "logit_bias": {"7": 1}}"#;
        let config: Config = serde_json::from_str(json).unwrap();
        let expected = [
            ("top_k", "5"),
            ("offline", "true"),
            ("system", "x"),
            ("stop", r#"["a","b"]"#),
            ("logit_bias", r#"{"7":1}"#),
        ];
        assert_eq!(config, Config::from(expected));
        let error = serde_json::from_str::<Config>(r#"{"top_k": null}"#).unwrap_err();
        assert!(error.to_string().contains("`top_k`: expected a value, found null"), "{error}");
    }
}
