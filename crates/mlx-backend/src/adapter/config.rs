//! `adapter_config.json`, as three programs write it.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What is said of an adapter beside its matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdapterConfig {
    /// Columns of A and rows of B.
    pub(crate) rank: i32,
    /// What the product of both is multiplied with.
    pub(crate) scale: f32,
}

/// mlx-vlm and mlx-lm.
#[derive(Debug, Deserialize)]
struct Mlx {
    rank: i32,
    scale: f32,
}

/// mlx-vlm before it named the layers.
#[derive(Debug, Deserialize)]
struct Legacy {
    rank: i32,
    #[serde(default = "legacy_alpha")]
    alpha: f32,
}

fn legacy_alpha() -> f32 {
    0.1
}

/// PEFT.
#[derive(Debug, Deserialize)]
struct Peft {
    r: i32,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
}

impl AdapterConfig {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// A sentence with what was expected and found.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|e| format!("not valid JSON: {e}"))?;
        let of = |value: &Value| value.clone();
        let fail = |e: serde_json::Error| e.to_string();
        let kind = json.get("fine_tune_type").or(json.get("peft_type")).and_then(Value::as_str);
        if let Some(kind) = kind.filter(|kind| !kind.eq_ignore_ascii_case("lora")) {
            return Err(format!("expected an adapter of the kind lora, found {kind}"));
        }
        let (rank, scale) = if let Some(parameters) = json.get("lora_parameters") {
            let Mlx { rank, scale } = Mlx::deserialize(parameters).map_err(fail)?;
            (rank, scale)
        } else if json.get("lora_alpha").is_some() {
            let peft: Peft = serde_json::from_value(of(&json)).map_err(fail)?;
            if peft.use_dora {
                return Err("expected an adapter of the kind lora, found use_dora".to_owned());
            }
            if !peft.rank_pattern.is_empty() || !peft.alpha_pattern.is_empty() {
                return Err("rank_pattern and alpha_pattern are not supported".to_owned());
            }
            let rank = peft.r as f32;
            (peft.r, peft.lora_alpha / if peft.use_rslora { rank.sqrt() } else { rank })
        } else if json.get("rank").is_some() {
            let Legacy { rank, alpha } = Legacy::deserialize(&json).map_err(fail)?;
            (rank, alpha / rank as f32)
        } else {
            return Err("expected lora_parameters, rank and alpha, or r and lora_alpha".to_owned());
        };
        if rank < 1 {
            return Err(format!("expected a rank of at least 1, found {rank}"));
        }
        if !scale.is_finite() {
            return Err(format!("expected a scale that is a number, found {scale}"));
        }
        Ok(Self { rank, scale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_says_rank_and_scale() {
        for (text, rank, scale) in [
            (
                r#"{"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 20.0}}"#,
                4,
                20.0,
            ),
            (r#"{"rank": 10, "alpha": 0.5, "dropout": 0.1}"#, 10, 0.05),
            (r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 32}"#, 16, 2.0),
            (r#"{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "use_rslora": true}"#, 16, 8.0),
        ] {
            assert_eq!(AdapterConfig::read(text), Ok(AdapterConfig { rank, scale }), "{text}");
        }
    }

    #[test]
    fn what_is_no_adapter_of_this_kind_is_refused() {
        for (text, reason) in [
            ("[", "not valid JSON"),
            ("{}", "expected lora_parameters"),
            (
                r#"{"fine_tune_type": "dora", "lora_parameters": {"rank": 4, "scale": 1}}"#,
                "found dora",
            ),
            (r#"{"fine_tune_type": "full"}"#, "found full"),
            (r#"{"peft_type": "IA3"}"#, "found IA3"),
            (r#"{"r": 8, "lora_alpha": 8, "use_dora": true}"#, "use_dora"),
            (r#"{"r": 8, "lora_alpha": 8, "rank_pattern": {"q": 4}}"#, "rank_pattern"),
            (r#"{"lora_parameters": {"rank": 0, "scale": 1}}"#, "at least 1"),
            (r#"{"lora_parameters": {"rank": 4}}"#, "scale"),
            (r#"{"rank": 4, "alpha": 1e39}"#, "scale"),
        ] {
            let error = AdapterConfig::read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
