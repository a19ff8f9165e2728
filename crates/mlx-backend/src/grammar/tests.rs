use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use llm_core::{OutputFormat, Request, Tool, ToolChoice};
use serde_json::{Value, json};

use super::*;
use crate::{text_stream::TextStream, tokenizer::Tokenizer};

const STOP: &str = "<|im_end|>";

fn grammars(tokenizer: Tokenizer) -> (Grammars, Arc<Tokenizer>) {
    let stop = tokenizer.token_to_id(STOP).unwrap();
    let tokenizer = Arc::new(tokenizer);
    (Grammars::new(tokenizer.clone(), Arc::new(BTreeSet::from([stop]))), tokenizer)
}

fn folder(name: &str) -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// Tokens that are words with `▁` for a space, and bytes.
fn byte_fallback() -> Tokenizer {
    let mut vocab: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let words =
        ["▁", "a", "▁a", "\"", ":▁", "{\"", "\"}", "▁{\"", ",▁\"", "日本", "12", "▁1", "true"];
    vocab.extend(words.map(str::to_owned));
    let end = vocab.len();
    let vocab: serde_json::Map<_, _> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let end = json!({"id": end, "content": STOP, "single_word": false, "lstrip": false,
                     "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [end], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true}});
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

fn of(grammars: &Grammars, schema: &Value) -> Grammar {
    let output = OutputFormat::json_schema("s", schema.clone());
    grammars.of(&Request::text("x").with_output(output)).unwrap().unwrap()
}

/// xorshift64*: random enough, and the same in each run.
fn random(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize
}

/// Writes an answer of tokens that are drawn among those allowed.
fn draw(mut grammar: Grammar, tokenizer: &Tokenizer, state: &mut u64) -> String {
    let stop = tokenizer.token_to_id(STOP).unwrap();
    let (mut stream, mut text) = (TextStream::new(), String::new());
    for _ in 0..4000 {
        let token = match grammar.next() {
            Next::Only(token) => token,
            Next::Nothing => break,
            Next::Among(bits) => {
                let allowed: Vec<u32> = (0..tokenizer.ids_end())
                    .filter(|id| bits[*id as usize / 32] >> (id % 32) & 1 == 1)
                    .collect();
                assert!(allowed.len() > 1);
                assert!(allowed.iter().all(|&id| id == stop || !tokenizer.is_added(id)));
                allowed[random(state) % allowed.len()]
            }
        };
        grammar.take(token).unwrap();
        if token == stop {
            break;
        }
        text.extend(stream.push(tokenizer, token).unwrap());
    }
    text.extend(stream.finish(tokenizer).unwrap());
    text
}

#[test]
fn any_choice_among_the_allowed_is_valid() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 12},
            "b": {"type": "array", "items": {"type": "integer", "minimum": -50, "maximum": 1234},
                  "minItems": 1, "maxItems": 4},
            "c": {"enum": ["<|im_end|>", "日本", 12, null, "a"]},
        },
        "required": ["a", "c"],
        "additionalProperties": false,
    });
    let valid = jsonschema::validator_for(&schema).unwrap();
    let all = [folder("testdata/golden/tiny_fp32"), folder("models/tiny-vl/full"), byte_fallback()];
    for tokenizer in all {
        let (grammars, tokenizer) = grammars(tokenizer);
        assert!(grammars.can_hold());
        let mut state = 3;
        for _ in 0..40 {
            let text = draw(of(&grammars, &schema), &tokenizer, &mut state);
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(valid.is_valid(&value), "{text}");
        }
    }
}

#[test]
fn what_must_come_is_known_ahead() {
    let (grammars, tokenizer) = grammars(folder("models/tiny-vl/full"));
    let schema = json!({
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": false,
    });
    let mut grammar = of(&grammars, &schema);
    let ahead: Vec<u32> = grammar.ahead().collect();
    let text = tokenizer.decode(&ahead).unwrap();
    assert!(text.len() > 8 && "{\"colour\": \"".starts_with(&text), "{text:?}");
    for token in ahead {
        assert_eq!(grammar.next(), Next::Only(token));
        grammar.take(token).unwrap();
    }
    assert!(matches!(grammar.next(), Next::Among(_)));
    // A token that is not allowed is an error, and no panic.
    let wrong = tokenizer.token_to_id("x").unwrap();
    assert!(matches!(grammar.take(wrong), Err(Error::Output(_))));
    // The longest run is bounded, and goes on.
    let long = json!({"const": "x".repeat(500)});
    let grammar = of(&grammars, &long);
    assert_eq!(grammar.ahead().len(), MOST_AHEAD);
    assert_eq!(draw(grammar, &tokenizer, &mut 1), long["const"].to_string());
}

#[test]
fn a_grammar_is_made_once_and_its_copies_are_apart() {
    let (grammars, tokenizer) = grammars(folder("models/tiny-vl/full"));
    let schema = json!({"type": "string", "maxLength": 8});
    let mut state = 5;
    let (first, second) = (of(&grammars, &schema), of(&grammars, &schema));
    for grammar in [first, second] {
        let text = draw(grammar, &tokenizer, &mut state);
        assert!(serde_json::from_str::<String>(&text).is_ok(), "{text}");
    }
    assert!(grammars.of(&Request::text("x")).unwrap().is_none());
    assert!(format!("{grammars:?}").contains("hits: 1"), "{grammars:?}");
}

/// Where a token's text depends on those beside it, nothing can be promised.
#[test]
fn a_tokenizer_without_bytes_cannot_hold() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let (grammars, _) = grammars(Tokenizer::load(dir.path()).unwrap());
    assert!(!grammars.can_hold());
}

/// Calls are those of the tools, with arguments that their schemas allow, references included.
#[test]
fn calls_follow_their_schemas() {
    let weather = json!({
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": false,
        "$defs": {"city": {"enum": ["Rome", "Oslo"]}},
    });
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let mut request = Request::text("x").with_tools([
        Tool::new("get_weather", "", weather.clone()),
        Tool::new("rest", "", nothing.clone()),
    ]);
    let mut state = 11;
    for tokenizer in [folder("models/tiny-vl/full"), byte_fallback()] {
        let (grammars, tokenizer) = grammars(tokenizer);
        let mut calls = |request: &Request| {
            let text = draw(grammars.of(request).unwrap().unwrap(), &tokenizer, &mut state);
            let mut reader = crate::calls::CallReader::default();
            let mut said = reader.push(&text);
            said.extend(reader.finish());
            let call = |said| match said {
                crate::calls::Said::Call(call) => call,
                other => panic!("{other:?} in {text}"),
            };
            said.into_iter().map(call).collect::<Vec<_>>()
        };
        let mut counts = BTreeSet::new();
        for _ in 0..30 {
            request.tool_choice = ToolChoice::Named("get_weather".into());
            let one = calls(&request);
            assert_eq!(one.len(), 1);
            let call = &one[0];
            assert_eq!(call.name, "get_weather");
            assert!(["Rome", "Oslo"].contains(&call.arguments["city"].as_str().unwrap()));
            request.tool_choice = ToolChoice::Required;
            let several = calls(&request);
            counts.insert(several.len());
            for call in several {
                let schema = if call.name == "rest" { &nothing } else { &weather };
                assert!(jsonschema::is_valid(schema, &call.arguments), "{call:?}");
            }
        }
        assert!(counts.len() > 1 && !counts.contains(&0), "{counts:?}");
        assert!(counts.iter().all(|&count| count <= 16), "{counts:?}");
    }
}

/// With a form and tools, an answer is a value or calls.
#[test]
fn a_form_or_calls() {
    let (grammars, tokenizer) = grammars(folder("models/tiny-vl/full"));
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let request = Request::text("x")
        .with_tools([Tool::new("f", "", schema.clone())])
        .with_output(OutputFormat::json_schema("s", schema));
    let mut state = 13;
    let texts: BTreeSet<String> = (0..30)
        .map(|_| draw(grammars.of(&request).unwrap().unwrap(), &tokenizer, &mut state))
        .collect();
    assert!(texts.contains("{}"), "{texts:?}");
    let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    assert!(texts.iter().all(|text| text == "{}" || text.starts_with(one)), "{texts:?}");
    assert!(texts.len() > 1);
    // The tool that cannot be held to is named.
    let odd = json!({"type": "object", "properties": {"a": {"not": {}}}});
    let mut request = Request::text("x")
        .with_tools([Tool::new("f", "", json!({"type": "object"})), Tool::new("g", "", odd)]);
    request.tool_choice = ToolChoice::Required;
    let error = grammars.of(&request).unwrap_err().to_string();
    assert!(error.starts_with("tool `g`: parameters: ") && error.contains("not"), "{error}");
}
