//! The metadata as `config.json` says it.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use serde_json::{Value, json};

use super::{Gguf, kind::Kind, metadata::need};
use crate::{Error, Result};

/// The tensor of what each frequency of rotation is divided by, in Llama 3.1 and later.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Families whose files are read: names in the metadata, which are also those of `model_type`.
const FAMILIES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Numbers of heads by tensor, where converters change the order of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadsOf {
    /// Of queries and of keys; `None` where rows are as in checkpoints of Hugging Face.
    counts: Option<[usize; 2]>,
}

/// The number of heads of a tensor.
pub(super) type Heads = usize;

impl HeadsOf {
    /// Returns the heads of the tensor `name` whose rows are in another order.
    pub(super) fn of(self, name: &str) -> Option<Heads> {
        let [queries, keys] = self.counts?;
        let module = name.strip_prefix("blk.")?.split_once('.')?.1;
        match module.split_once('.')?.0 {
            "attn_q" => Some(queries),
            "attn_k" => Some(keys),
            _ => None,
        }
    }
}

impl Gguf {
    /// Returns `config.json` of a checkpoint with this model.
    ///
    /// # Errors
    /// [`Error::Config`] if the metadata does not say what it must; [`Error::UnsupportedArchitecture`].
    pub(crate) fn config(&self) -> Result<Value> {
        let family = self.family()?;
        self.config_of(family).map_err(|reason| self.config_error(reason))
    }

    fn family(&self) -> Result<&'static str> {
        let name = self.metadata.text("general.architecture");
        let name = name.and_then(|name| need(name, "general.architecture"));
        let name = name.map_err(|reason| self.config_error(reason))?;
        FAMILIES.into_iter().find(|family| *family == name).ok_or_else(|| {
            Error::UnsupportedArchitecture { model_type: name.to_owned(), known: FAMILIES.into() }
        })
    }

    pub(super) fn heads(&self) -> Result<HeadsOf> {
        let family = self.family()?;
        let counts = || {
            let key = format!("{family}.attention.head_count");
            let queries = need(self.metadata.number(&key)?, &key)?;
            let keys = self.metadata.number(&format!("{key}_kv"))?.unwrap_or(queries);
            let small =
                |n: u64| u16::try_from(n).map_err(|_| format!("`{key}` of {n} is too large"));
            Ok([small(queries)?.into(), small(keys)?.into()])
        };
        let counts = (family == "llama").then(counts).transpose();
        Ok(HeadsOf { counts: counts.map_err(|reason| self.config_error(reason))? })
    }

    fn config_of(&self, family: &str) -> Result<Value, String> {
        let key = |name: &str| format!("{family}.{name}");
        let number = |name: &str| self.metadata.number(&key(name));
        let needed = |name: &str| need(number(name)?, &key(name));
        if let Some(experts) = number("expert_count")?.filter(|&experts| experts > 0) {
            return Err(format!("expected a model without experts, found {experts}"));
        }
        let (layers, tensors) = (needed("block_count")?, self.tensors.len());
        // Before somebody makes room for so many.
        if layers > tensors as u64 {
            return Err(format!("`{}` is {layers}, for {tensors} tensors", key("block_count")));
        }
        let heads = needed("attention.head_count")?;
        let embedding = self.tensor("token_embd.weight");
        let embedding = embedding.ok_or("expected the tensor `token_embd.weight`, found none")?;
        let rows = embedding.shape.first().copied().unwrap_or_default();
        let has = |name: &str| self.tensor(name).is_some();
        let mut config = json!({
            "model_type": family,
            "hidden_size": needed("embedding_length")?,
            "num_hidden_layers": layers,
            "intermediate_size": needed("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": number("attention.head_count_kv")?.unwrap_or(heads),
            "rms_norm_eps": need(
                self.metadata.float(&key("attention.layer_norm_rms_epsilon"))?,
                &key("attention.layer_norm_rms_epsilon"),
            )?,
            "vocab_size": rows,
            "max_position_embeddings": needed("context_length")?,
            "rope_theta": self.metadata.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            "tie_word_embeddings": !has("output.weight"),
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_gate.bias"),
            "eos_token_id": self.stop_ids()?,
        });
        let head_dim = number("attention.key_length")?;
        if let Some(head_dim) = head_dim {
            config["head_dim"] = head_dim.into();
        }
        let head_dim = head_dim.or_else(|| needed("embedding_length").ok()?.checked_div(heads));
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let (Some(found), Some(expected)) = (number(name)?, head_dim)
                && found != expected
            {
                return Err(format!(
                    "expected `{}` to be the size of a head, {expected}, found {found}",
                    key(name)
                ));
            }
        }
        if let Some(scaling) = self.rope_scaling(family)? {
            config["rope_scaling"] = scaling;
        }
        Ok(config)
    }

    fn rope_scaling(&self, family: &str) -> Result<Option<Value>, String> {
        let factor = self.metadata.float(&format!("{family}.rope.scaling.factor"))?;
        let kind = self.metadata.text(&format!("{family}.rope.scaling.type"))?;
        match kind {
            None | Some("none") => self.llama3_scaling(family),
            Some("linear") => {
                let factor = need(factor, &format!("{family}.rope.scaling.factor"))?;
                Ok(Some(json!({"rope_type": "linear", "factor": factor})))
            }
            Some(other) => {
                Err(format!("expected `{family}.rope.scaling.type` none or linear, found {other}"))
            }
        }
    }

    /// Converters write what frequencies are divided by instead of how that is found. The largest of these
    /// is the factor, and with the other numbers of all published models the rest must be as they are.
    fn llama3_scaling(&self, family: &str) -> Result<Option<Value>, String> {
        let Some(tensor) = self.tensor(ROPE_FACTORS) else { return Ok(None) };
        let length = tensor.range.end - tensor.range.start;
        if tensor.kind != Kind::F32 || tensor.shape.len() != 1 || length > 1 << 16 {
            return Err(format!("expected `{ROPE_FACTORS}` as a row of F32, found {tensor:?}"));
        }
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(tensor.range.start))?;
                file.take(length).read_to_end(&mut bytes)
            })
            .map_err(|e| format!("`{ROPE_FACTORS}` cannot be read: {e}"))?;
        let found: Vec<f32> =
            bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let factor = found.iter().copied().fold(0.0, f32::max);
        let base = self.metadata.float(&format!("{family}.rope.freq_base"))?.unwrap_or(10_000.0);
        let (low, high, original) = (1.0, 4.0, 8192.0);
        let half = found.len() as f64;
        let expected = (0..found.len()).map(|i| {
            let wavelength = std::f64::consts::TAU * base.powf(i as f64 / half);
            match wavelength {
                short if short < original / high => 1.0,
                long if long > original / low => f64::from(factor),
                between => {
                    let smooth = (original / between - low) / (high - low);
                    1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
                }
            }
        });
        let near = |(found, expected): (&f32, f64)| {
            (f64::from(*found) - expected).abs() <= 1e-3 * expected
        };
        if !found.iter().zip(expected).all(near) {
            return Err(format!(
                "expected `{ROPE_FACTORS}` as Llama 3.1 has them, found others, the largest {factor}"
            ));
        }
        Ok(Some(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        })))
    }
}
