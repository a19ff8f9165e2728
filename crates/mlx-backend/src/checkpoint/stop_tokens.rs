//! The tokens that end an answer, gathered from every file that names one.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use super::files::read_json_if_any;
use crate::{
    Error, Result,
    tokenizer::{Tokenizer, token_text},
};

/// Reads `config`, the JSON of the file at `path`, and what is beside it in `dir`, if that is a folder.
pub(super) fn collect(
    path: &Path,
    dir: Option<&Path>,
    config: &Value,
    tokenizer: &Tokenizer,
) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    add_ids(path, config.get("eos_token_id"), &mut ids)?;
    add_ids(path, config.get("text_config").and_then(|c| c.get("eos_token_id")), &mut ids)?;
    let Some(dir) = dir else { return Ok(ids) };
    let path = dir.join("generation_config.json");
    if let Some(generation) = read_json_if_any(&path)? {
        add_ids(&path, generation.get("eos_token_id"), &mut ids)?;
    }
    if let Some(config) = read_json_if_any(&dir.join("tokenizer_config.json"))? {
        // A token that the vocabulary lacks can never be produced, so there is nothing to stop at.
        let id =
            config.get("eos_token").and_then(token_text).and_then(|t| tokenizer.token_to_id(t));
        ids.extend(id);
    }
    Ok(ids)
}

/// Adds `value`, which is an id, a list of ids, or nothing.
pub(crate) fn add_ids(path: &Path, value: Option<&Value>, ids: &mut BTreeSet<u32>) -> Result<()> {
    let values = match value {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    for value in values {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let reason = format!("expected token ids in `eos_token_id`, found {value}");
            Error::Config { path: path.to_owned(), reason }
        })?;
        ids.insert(id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/tiny_fp32");
        Tokenizer::load(&golden).unwrap()
    }

    #[test]
    fn the_set_is_the_union_of_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"eos_token_id": 1, "text_config": {"eos_token_id": [2, 3]}});
        fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [3, 4]}"#)
            .unwrap();
        let token = json!({"eos_token": {"content": "<|endoftext|>"}}).to_string();
        fs::write(dir.path().join("tokenizer_config.json"), token).unwrap();
        let ids = collect(&dir.path().join("config.json"), Some(dir.path()), &config, &tokenizer())
            .unwrap();
        assert_eq!(ids, BTreeSet::from([1, 2, 3, 4, 256]));
    }

    #[test]
    fn nothing_is_an_empty_set_and_nonsense_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let token = json!({"eos_token": "not a token"}).to_string();
        fs::write(dir.path().join("tokenizer_config.json"), token).unwrap();
        let ids = collect(
            &dir.path().join("config.json"),
            Some(dir.path()),
            &json!({"eos_token_id": null}),
            &tokenizer(),
        )
        .unwrap();
        assert!(ids.is_empty());
        for bad in [json!(-1), json!("2"), json!([1, 1.5]), json!(1u64 << 32)] {
            let config = json!({"eos_token_id": bad});
            let text =
                collect(&dir.path().join("config.json"), Some(dir.path()), &config, &tokenizer())
                    .unwrap_err()
                    .to_string();
            assert!(text.contains("config.json: expected token ids"), "{text}");
        }
    }
}
