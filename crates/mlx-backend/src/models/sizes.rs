//! Bounds on the sizes that a `config.json` says, so that their products can be counted in 32 bits, as MLX
//! does, and nobody makes room for what no model has.

use serde_json::Value;

/// Most values of a token or a patch, outside and inside of a layer; the widest published have 53 248.
pub(super) const MAX_WIDTH: i32 = 1 << 20;
/// Most heads, values of a head, and experts.
pub(super) const MAX_HEADS: i32 = 1 << 14;
/// Most tokens of a vocabulary; the largest published have 262 208.
pub(super) const MAX_VOCABULARY: i32 = 1 << 24;
/// Most layers; the deepest published have 126.
pub(super) const MAX_LAYERS: usize = 4096;
/// The sizes in `vision_config`, by all names that families have for them, and the most of each: sides of frames
/// and patches in pixels, and what is joined in a patch or a feature.
const OF_TOWERS: [(&str, i32); 14] = [
    ("embed_dim", MAX_WIDTH),
    ("hidden_size", MAX_WIDTH),
    ("intermediate_size", MAX_WIDTH),
    ("num_heads", MAX_HEADS),
    ("num_attention_heads", MAX_HEADS),
    ("depth", MAX_LAYERS as i32),
    ("num_hidden_layers", MAX_LAYERS as i32),
    ("image_size", 1 << 14),
    ("patch_size", 256),
    ("in_channels", MAX_JOINED),
    ("in_chans", MAX_JOINED),
    ("num_channels", MAX_JOINED),
    ("temporal_patch_size", MAX_JOINED),
    ("spatial_merge_size", MAX_JOINED),
];
/// Most channels, frames of a patch, and patches along a side of a feature.
pub(super) const MAX_JOINED: i32 = 32;

/// Checks that each value is from 1 to what comes with it.
///
/// # Errors
/// A sentence with the name and the value of the first that is not.
pub(super) fn check(sizes: &[(&str, i32, i32)]) -> Result<(), String> {
    match sizes.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
        Some((name, value, most)) => {
            Err(format!("expected `{name}` from 1 to {most}, found {value}"))
        }
        None => Ok(()),
    }
}

/// As [`check`], of all sizes that `vision_config` says; those of another type are for whoever reads them.
pub(super) fn check_tower(config: &Value) -> Result<(), String> {
    let said = |&(name, most): &(&'static str, i32)| {
        let value = config.get("vision_config")?.get(name)?;
        let value = value.as_i64().or(value.is_u64().then_some(i64::MAX))?;
        Some((name, value.clamp(i32::MIN.into(), i32::MAX.into()) as i32, most))
    };
    let said: Vec<_> = OF_TOWERS.iter().filter_map(said).collect();
    check(&said).map_err(|reason| format!("vision_config: {reason}"))
}

/// As [`check`], of a number of layers, before there is room for so many.
pub(super) fn check_layers(layers: usize) -> Result<(), String> {
    match layers <= MAX_LAYERS {
        true => Ok(()),
        false => Err(format!("expected `num_hidden_layers` up to {MAX_LAYERS}, found {layers}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::models::{Architecture, architectures};

    /// Before, some were multiplied beyond 32 bits, and a number of layers was made room for as it stood.
    #[test]
    fn a_number_of_any_size_is_read_or_refused() {
        for architecture in architectures() {
            let name = architecture.model_type.replace("smolvlm", "idefics3");
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
            let path = match name.as_str() {
                "qwen2_5_vl" => folder.join("golden/tiny_fp32/config.json"),
                name => folder.join("families").join(name).join("config.json"),
            };
            let config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert!((architecture.footprint)(&config, &path).is_ok(), "{name}");
            change_each(&config, &mut |changed| drop((architecture.footprint)(changed, &path)));
        }
    }

    /// Calls `read` with `config` for each number in it, replaced by each of several.
    fn change_each(config: &Value, read: &mut dyn FnMut(&Value)) {
        let numbers = [
            json!(0),
            json!(-1),
            json!(1),
            json!(i32::MAX),
            json!(i32::MIN),
            json!(1_u64 << 40),
            json!(u64::MAX),
            json!(0.0),
            json!(-1e300),
        ];
        let mut pointers = Vec::new();
        pointers_of(config, &mut String::new(), &mut pointers);
        assert!(pointers.len() > 5);
        for pointer in pointers {
            for number in &numbers {
                let mut changed = config.clone();
                *changed.pointer_mut(&pointer).unwrap() = number.clone();
                read(&changed);
            }
        }
    }

    fn pointers_of(value: &Value, at: &mut String, found: &mut Vec<String>) {
        let length = at.len();
        let mut inner = |key: &str, value: &Value| {
            *at += &format!("/{key}");
            pointers_of(value, at, found);
            at.truncate(length);
        };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| inner(key, value)),
            Value::Array(values) => {
                values.iter().enumerate().for_each(|(i, value)| inner(&i.to_string(), value));
            }
            Value::Number(_) => found.push(at.clone()),
            _ => {}
        }
    }

    #[test]
    fn what_is_too_large_is_named() {
        let footprint = |config: Value| {
            let llama = |a: &&Architecture| a.model_type == "llama";
            let llama = architectures().find(llama).unwrap();
            (llama.footprint)(&config, Path::new("config.json"))
        };
        let config = |layers: u64, heads: i64| {
            json!({"hidden_size": 64, "intermediate_size": 64, "vocab_size": 9,
                "num_attention_heads": heads, "num_hidden_layers": layers})
        };
        assert!(footprint(config(2, 4)).is_ok());
        for (config, says) in [
            (config(1 << 40, 4), "`num_hidden_layers` up to 4096, found 1099511627776"),
            (config(2, 1 << 20), "does not divide into 1048576 even heads"),
            (config(2, -2), "into -2 even heads"),
        ] {
            let found = footprint(config).unwrap_err().to_string();
            assert!(found.contains(says), "{found}");
        }
    }
}
