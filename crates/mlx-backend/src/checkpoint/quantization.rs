//! The `quantization` block of `config.json`: one setting for all layers, and exceptions by path.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::quantize::{QuantizationMode, Quantize};

/// Layers of the language model are named with this prefix by some writers and without by others.
const PREFIX: &str = "language_model.";

/// The settings of a checkpoint; the default is one that is not quantised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuantizationConfig {
    /// The setting of every layer without one of its own.
    pub(crate) default: Option<Quantize>,
    /// The settings of single layers by module path; `None` for a layer that is not quantised.
    pub(crate) per_path: HashMap<String, Option<Quantize>>,
}

impl QuantizationConfig {
    /// Reads `quantization`, or `quantization_config` if that is absent, from a `config.json`.
    ///
    /// # Errors
    /// The reason, if a setting is not one of MLX.
    pub(crate) fn from_config(config: &Value) -> Result<Self, String> {
        let block = ["quantization", "quantization_config"]
            .into_iter()
            .find_map(|name| config.get(name).filter(|b| !b.is_null()).map(|b| (name, b)));
        let Some((name, block)) = block else { return Ok(Self::default()) };
        let Some(block) = block.as_object() else {
            return Err(format!("expected an object `{name}`, found {block}"));
        };
        if let Some(method) = block.get("quant_method").filter(|m| *m != "mlx") {
            return Err(format!(
                "expected weights quantised by MLX, found `quant_method` {method}"
            ));
        }
        let mut this = Self::default();
        if ["group_size", "bits", "mode"].iter().any(|key| block.contains_key(*key)) {
            // Unlike those of a layer, these have no defaults.
            if let Some(key) = ["group_size", "bits"].into_iter().find(|k| !block.contains_key(*k))
            {
                return Err(format!("expected `{key}` in `{name}`, found none"));
            }
            this.default = Some(read(name, block)?);
        }
        for (path, value) in block {
            match value {
                Value::Object(entry) => {
                    this.per_path.insert(path.clone(), Some(read(path, entry)?));
                }
                Value::Bool(false) => {
                    this.per_path.insert(path.clone(), None);
                }
                // `true` asks for the default. Texts and numbers are notes of the converter.
                _ => {}
            }
        }
        Ok(this)
    }

    /// Returns the setting of the layer at module path `path`, with or without the prefix
    /// `language_model.`; `None` if the layer is not quantised.
    pub(crate) fn get(&self, path: &str) -> Option<Quantize> {
        let other = match path.strip_prefix(PREFIX) {
            Some(rest) => rest.to_owned(),
            None => format!("{PREFIX}{path}"),
        };
        let own = self.per_path.get(path).or_else(|| self.per_path.get(&other));
        own.copied().unwrap_or(self.default)
    }
}

/// Reads one setting; what is absent is the default of its mode, as in MLX.
fn read(name: &str, entry: &Map<String, Value>) -> Result<Quantize, String> {
    let mode = match entry.get("mode").filter(|m| !m.is_null()) {
        None => QuantizationMode::Affine,
        Some(mode) => mode.as_str().and_then(|mode| mode.parse().ok()).ok_or_else(|| {
            format!("expected `mode` of `{name}` to be affine, mxfp4, mxfp8 or nvfp4, found {mode}")
        })?,
    };
    // The first of each list is the default.
    let number = |key: &str, allowed: &[i32]| match entry.get(key).filter(|v| !v.is_null()) {
        None => Ok(allowed[0]),
        Some(value) => {
            let found = value.as_i64().and_then(|v| i32::try_from(v).ok());
            found.filter(|v| allowed.contains(v)).ok_or_else(|| {
                format!("expected `{key}` of `{name}` to be one of {allowed:?}, found {value}")
            })
        }
    };
    Ok(Quantize {
        group_size: number("group_size", mode.group_sizes())?,
        bits: number("bits", mode.bits())?,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn affine(group_size: i32, bits: i32) -> Option<Quantize> {
        Some(Quantize::affine(bits, group_size))
    }

    #[test]
    fn exceptions_win_over_the_default_under_either_name() {
        let config = json!({"quantization": {
            "group_size": 64, "bits": 4, "note": "text", "model.c": true,
            "language_model.model.a": {"group_size": 32, "bits": 8, "mode": "affine"},
            "model.b": false,
            "lm_head": {"bits": 6},
        }});
        let config = QuantizationConfig::from_config(&config).unwrap();
        for (path, expected) in [
            ("language_model.model.a", affine(32, 8)),
            ("model.a", affine(32, 8)),
            ("language_model.model.b", None),
            ("model.b", None),
            ("language_model.model.c", affine(64, 4)),
            ("language_model.lm_head", affine(64, 6)),
            ("anything.else", affine(64, 4)),
        ] {
            assert_eq!(config.get(path), expected, "{path}");
        }
    }

    #[test]
    fn the_first_block_counts_and_none_is_not_quantised() {
        let both = json!({"quantization": {"group_size": 32, "bits": 3},
                          "quantization_config": {"group_size": 64, "bits": 8}});
        assert_eq!(QuantizationConfig::from_config(&both).unwrap().default, affine(32, 3));
        let second = json!({"quantization": null,
                            "quantization_config": {"group_size": 64, "bits": 8}});
        assert_eq!(QuantizationConfig::from_config(&second).unwrap().default, affine(64, 8));
        let none = QuantizationConfig::from_config(&json!({})).unwrap();
        assert_eq!(none.get("lm_head"), None);
        let floats = json!({"quantization": {"group_size": 16, "bits": 4, "mode": "nvfp4"}});
        let mode = QuantizationConfig::from_config(&floats).unwrap().default.unwrap().mode;
        assert_eq!(mode, QuantizationMode::Nvfp4);
    }

    #[test]
    fn what_mlx_cannot_mean_is_refused_by_name() {
        for (block, says) in [
            (json!(4), "expected an object `quantization`, found 4"),
            (json!({"bits": 4}), "expected `group_size` in `quantization`"),
            (json!({"group_size": 64}), "expected `bits` in `quantization`"),
            (json!({"group_size": 64, "bits": 7}), "`bits` of `quantization`"),
            (json!({"group_size": 0, "bits": 4}), "`group_size` of `quantization`"),
            (json!({"group_size": 64, "bits": "4"}), "found \"4\""),
            (json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}), "one of [32], found 64"),
            (json!({"group_size": 64, "bits": 4, "mode": "x"}), "affine, mxfp4, mxfp8 or nvfp4"),
            (json!({"a.b": {"bits": 1}}), "`bits` of `a.b`"),
            (json!({"quant_method": "gptq", "bits": 4, "group_size": 128}), "\"gptq\""),
        ] {
            let config = json!({"quantization": block});
            let reason = QuantizationConfig::from_config(&config).unwrap_err();
            assert!(reason.contains(says), "{block}: {reason}");
        }
    }
}
