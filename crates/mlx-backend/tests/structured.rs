//! Answers that are held to a form, by the MLX provider on tiny-vl. The model was trained on nothing like
//! it: that its documents are valid is the work of the grammar alone. An independent crate validates.

mod random;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use llm_core::{
    ErrorKind, Event, FinishReason, GenerateParams, Image, OutputFormat, Provider, Request,
    Response,
};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};
use serde_json::{Map, Value, json};

use self::random::Random;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(options: MlxOptions) -> MlxProvider {
    let path = root().join("models/tiny-vl/full");
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

/// What keeps nothing, so that every request does all its work.
fn fresh() -> MlxOptions {
    MlxOptions { caches: Caches::new(CacheLimits::none()), ..MlxOptions::default() }
}

fn held(prompt: &str, schema: &Value, params: GenerateParams) -> Request {
    let output = OutputFormat::json_schema("answer", schema.clone());
    Request::text(prompt).with_output(output).with_params(params)
}

fn tokens(max_tokens: u32) -> GenerateParams {
    GenerateParams { max_tokens: Some(max_tokens), ..GenerateParams::default() }
}

fn draws(seed: u64, max_tokens: u32) -> GenerateParams {
    GenerateParams { temperature: Some(1.0), seed: Some(seed), ..tokens(max_tokens) }
}

fn ask(provider: &MlxProvider, request: Request) -> Response {
    block_on(provider.generate(request)).unwrap()
}

/// The document of `answer`, which must be complete and as `schema` says.
fn document(answer: &Response, schema: &Value) -> Value {
    assert_eq!(answer.completion.reason, FinishReason::Stop, "{schema}: {answer:?}");
    let document = serde_json::from_str(&answer.text)
        .unwrap_or_else(|e| panic!("{schema}: {e}: {:?}", answer.text));
    let validator = jsonschema::options().should_validate_formats(true).build(schema);
    let validator = validator.unwrap_or_else(|e| panic!("{schema}: {e}"));
    if let Err(error) = validator.validate(&document) {
        panic!("{schema} does not allow {document}: {error}");
    }
    document
}

/// Makes schemas of all keywords that bound how long a value is.
struct Schemas(Random);

impl Schemas {
    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A schema with definitions that are referred to here and there.
    fn whole(&mut self) -> Value {
        let depth = 1 + self.below(3);
        let mut schema = match self.below(4) {
            0 => self.any(depth),
            _ => self.object(depth),
        };
        // What refers to itself may be of any length, and the model chooses which.
        let words = self.object(0).to_string().replace("two%20words", "shape");
        let words: Value = serde_json::from_str(&words).unwrap();
        schema["$defs"] = json!({"shape": self.leaf(), "two words": words});
        schema
    }

    fn any(&mut self, depth: u64) -> Value {
        match self.below(if depth == 0 { 6 } else { 11 }) {
            0..=4 => self.leaf(),
            5 => json!({"$ref": self.pick(&["#/$defs/shape", "#/$defs/two%20words"])}),
            6..=7 => self.object(depth - 1),
            8 => self.array(depth - 1),
            9 => {
                let two = [self.any(depth - 1), self.leaf()];
                json!({"description": "One or the other.", "anyOf": two})
            }
            _ => {
                let object = self.object(depth - 1);
                json!({"allOf": [object, {"required": ["colour"]}]})
            }
        }
    }

    fn leaf(&mut self) -> Value {
        match self.below(12) {
            0 => json!({"type": "string", "maxLength": 1 + self.below(20)}),
            1 => {
                let least = self.below(5);
                json!({"type": "string", "minLength": least, "maxLength": least + self.below(9)})
            }
            2 => {
                let pattern =
                    ["^[A-Z]{2}-[0-9]{3}$", "^(red|green|blue)( (big|small))?$", "^[a-f0-9]{8}$"];
                json!({"type": "string", "pattern": self.pick(&pattern)})
            }
            3 => json!({"type": "string", "format": self.pick(&["date", "uuid", "ipv4"])}),
            4 => {
                let least = self.below(2000) as i64 - 1000;
                json!({"type": "integer", "minimum": least, "maximum": least + self.below(500) as i64})
            }
            5 => json!({"type": "integer", "minimum": 0, "exclusiveMaximum": 100, "multipleOf": 5}),
            6 => json!({"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.01}),
            7 => json!({"type": "boolean"}),
            8 => json!({"type": ["boolean", "null"]}),
            9 => json!({"enum": ["a \"quoted\" one", "日本\n", 3, -2.5, null, true, {"x": []}]}),
            10 => json!({"const": {"kind": "circle", "at": [1, 2]}}),
            _ => json!({"enum": ["circle", "square", "<|im_end|>", "triangle"]}),
        }
    }

    fn array(&mut self, depth: u64) -> Value {
        let least = self.below(3);
        let mut schema = json!({
            "type": "array",
            "items": self.any(depth),
            "minItems": least,
            "maxItems": least + self.below(3),
        });
        if self.below(4) == 0 {
            schema["prefixItems"] = json!([self.leaf(), self.leaf()]);
        }
        schema
    }

    fn object(&mut self, depth: u64) -> Value {
        let names = ["colour", "size", "text", "näme", "a \"b\"", "count", "inner"];
        let mut properties = Map::new();
        let mut required = Vec::new();
        for name in names {
            if name == "colour" || self.below(2) == 0 {
                properties.insert(name.to_owned(), self.any(depth));
                if self.below(3) > 0 {
                    required.push(name);
                }
            }
        }
        json!({
            "title": "Some object",
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

const PROMPTS: [&str; 5] = [
    "Describe this image.",
    "What can you do?",
    "Answer in JSON.",
    "Say nothing but: no.",
    "How many shapes are there? Count them one after the other.",
];

/// Asks for documents of `count` random schemas, as many of them as there are valid.
fn random_documents(count: u64, seed: u64) -> u64 {
    let provider = load(fresh());
    let scene = fs::read(root().join("models/tiny-vl/samples/scene.png")).unwrap();
    let mut schemas = Schemas(Random(seed));
    let mut valid = 0;
    for i in 0..count {
        let schema = schemas.whole();
        let params = match i % 3 {
            0 => tokens(3000),
            1 => GenerateParams { repetition_penalty: Some(1.2), ..draws(i, 3000) },
            _ => GenerateParams { top_p: Some(0.9), top_k: Some(20), ..draws(i, 3000) },
        };
        let mut request = held(PROMPTS[i as usize % PROMPTS.len()], &schema, params);
        if i % 4 == 0 {
            let image = [Image::encoded(scene.clone())];
            request.messages = Request::images(image, PROMPTS[i as usize % 5]).messages;
        }
        document(&ask(&provider, request), &schema);
        valid += 1;
    }
    valid
}

#[test]
fn documents_of_random_schemas_are_valid() {
    assert_eq!(random_documents(12, 1), 12);
}

#[test]
#[ignore = "takes some minutes"]
fn two_hundred_documents_of_random_schemas_are_valid() {
    assert_eq!(random_documents(200, 2026), 200);
}

fn scene_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 16},
            "shapes": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {
                        "kind": {"enum": ["circle", "square", "triangle"]},
                        "area": {"type": "integer", "minimum": 1, "maximum": 999},
                    },
                    "required": ["kind", "area"],
                    "additionalProperties": false,
                },
            },
        },
        "required": ["title", "shapes"],
        "additionalProperties": false,
    })
}

/// Held and free answers share their steps, and each is the one that it is alone.
#[test]
fn held_answers_are_made_beside_free_ones() {
    let provider = load(fresh());
    let schema = scene_schema();
    let requests: Vec<Request> = (0..9)
        .map(|i| match i % 3 {
            0 => Request::text(PROMPTS[1]).with_params(tokens(40)),
            1 => held(PROMPTS[i % 5], &schema, tokens(400)),
            _ => held(PROMPTS[i % 5], &schema, draws(i as u64, 400)),
        })
        .collect();
    let alone: Vec<String> =
        requests.iter().map(|request| ask(&provider, request.clone()).text).collect();
    for _ in 0..2 {
        thread::scope(|scope| {
            for (request, alone) in requests.iter().zip(&alone) {
                let (provider, schema) = (&provider, &schema);
                scope.spawn(move || {
                    let answer = ask(provider, request.clone());
                    assert_eq!(&answer.text, alone);
                    if request.output != OutputFormat::Text {
                        document(&answer, schema);
                    }
                });
            }
        });
    }
}

/// What was asked for before, and guesses at what follows, change nothing.
#[test]
fn caches_and_guesses_change_nothing() {
    let request = held("What can you do?", &scene_schema(), tokens(400));
    let expected = ask(&load(fresh()), request.clone());
    document(&expected, &scene_schema());
    let caches = Caches::new(CacheLimits::default());
    let options = MlxOptions { caches, prompt_lookup_tokens: 6, ..MlxOptions::default() };
    let provider = load(options);
    for round in 0..3 {
        let found = ask(&provider, request.clone());
        assert_eq!(found.text, expected.text, "{round}");
        let tokens = |answer: &Response| answer.completion.usage.completion_tokens;
        assert_eq!(tokens(&found), tokens(&expected));
    }
}

/// The stream is the document in pieces, each as soon as it is known.
#[test]
fn documents_come_in_pieces() {
    let provider = load(fresh());
    let request = held("What can you do?", &scene_schema(), tokens(400));
    let whole = ask(&provider, request.clone()).text;
    let mut stream = block_on(provider.generate_stream(request)).unwrap();
    let (mut text, mut pieces) = (String::new(), 0);
    while let Some(event) = block_on(stream.next()) {
        if let Event::Text(piece) = event.unwrap() {
            text += &piece;
            pieces += 1;
        }
    }
    assert_eq!(text, whole);
    assert!(pieces > 5, "{pieces}");
}

#[test]
fn json_without_a_schema_is_an_object() {
    let provider = load(fresh());
    for seed in 0..4 {
        let request = Request::text("Answer in JSON.")
            .with_output(OutputFormat::Json)
            .with_params(draws(seed, 120));
        let answer = ask(&provider, request);
        assert!(answer.text.starts_with('{'), "{answer:?}");
        if answer.completion.reason == FinishReason::Stop {
            let value: Value = serde_json::from_str(&answer.text).unwrap();
            assert!(value.is_object(), "{value}");
        }
    }
}

/// The caller's own bounds count: what they cut is no document, and the reason says so.
#[test]
fn a_document_may_be_cut() {
    let provider = load(fresh());
    let whole = ask(&provider, held("What can you do?", &scene_schema(), tokens(400)));
    for most in [1, 5, 8] {
        let cut = ask(&provider, held("What can you do?", &scene_schema(), tokens(most)));
        assert_eq!(cut.completion.reason, FinishReason::Length);
        assert_eq!(cut.completion.usage.completion_tokens, most as usize);
        assert!(whole.text.starts_with(&cut.text) && cut.text.len() < whole.text.len());
    }
    // With exactly as many as it needs, it is complete.
    let needed = whole.completion.usage.completion_tokens as u32;
    let exact = ask(&provider, held("What can you do?", &scene_schema(), tokens(needed)));
    assert_eq!((exact.text.as_str(), exact.completion.reason), (&*whole.text, FinishReason::Stop));
    let stop = vec!["\"shapes\"".to_owned()];
    let params = GenerateParams { stop, ..tokens(400) };
    let stopped = ask(&provider, held("What can you do?", &scene_schema(), params));
    assert_eq!(stopped.completion.reason, FinishReason::Stop);
    assert!(stopped.text.ends_with(", ") && whole.text.starts_with(&stopped.text), "{stopped:?}");
}

/// Values are texts: no token that ends a turn can be one, or a part of one.
#[test]
fn control_tokens_are_written_out() {
    let provider = load(fresh());
    let schema = json!({"const": "<|im_end|><|image_pad|>"});
    let answer = ask(&provider, held("Hello!", &schema, tokens(100)));
    assert_eq!(document(&answer, &schema), "<|im_end|><|image_pad|>");
}

/// What cannot be held to is refused before anything is computed, and in bounded time.
#[test]
fn what_cannot_be_held_to_is_refused() {
    let provider = load(fresh());
    let refuse = |schema: Value, says: &str| {
        let started = Instant::now();
        let short: String = schema.to_string().chars().take(80).collect();
        let mut stream =
            block_on(provider.generate_stream(held("Hello!", &schema, tokens(5)))).unwrap();
        let first = block_on(stream.next()).unwrap();
        let took = started.elapsed();
        let error = first.expect_err(&short);
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{short}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("schema `answer`: ") && text.contains(says), "{short}: {text}");
        assert!(took < Duration::from_secs(10), "{short}: {took:?}");
    };
    for (says, schema) in [
        ("uniqueItems", json!({"type": "array", "uniqueItems": true})),
        ("not", json!({"not": {"type": "string"}})),
        ("dependentRequired", json!({"type": "object", "dependentRequired": {"a": ["b"]}})),
        ("format", json!({"type": "string", "format": "unheard-of"})),
        ("example.org", json!({"$ref": "https://example.org/schema.json"})),
        ("nothing", json!({"$ref": "#/$defs/nothing"})),
        ("", json!({"type": "number", "minimum": 3, "maximum": 2})),
        ("", json!({"type": "text"})),
        ("", json!({"type": "string", "pattern": "("})),
        ("allows no value", json!(false)),
        ("x-guidance", json!({"type": "string", "x-guidance": {"lenient": true}})),
    ] {
        refuse(schema, says);
    }
    // Small to write and large to hold to.
    let wide = |i: u64| json!({"type": "string", "minLength": i});
    let any = |n: u64| json!({"anyOf": (0..n).map(wide).collect::<Vec<_>>()});
    refuse(json!({"allOf": vec![any(200); 4]}), "alternatives");
    let mut nested = json!({"type": "string"});
    for _ in 0..60 {
        nested = json!({"type": "object", "properties": {"a": nested}});
    }
    refuse(nested, "levels");
}

/// Numbers that are large ask for much only where the model writes as much.
#[test]
fn large_bounds_cost_nothing_by_themselves() {
    let provider = load(fresh());
    for schema in [
        json!({"type": "string", "minLength": 1_000_000_000_u64}),
        json!({"type": "array", "items": {"type": "null"}, "minItems": 100_000}),
        json!({"type": "array", "items": {"type": "boolean"}, "maxItems": 1_000_000_000_u64}),
        json!({"type": "integer", "minimum": -1e15, "maximum": 1e15}),
        json!({"type": "string", "pattern": "^((a{1,1000}){1,1000}b){1000}$"}),
        json!({"type": "string", "pattern": "^(.*a){20}.{100}(b|c.*){30}$"}),
    ] {
        let started = Instant::now();
        let answer = block_on(provider.generate(held("Hello!", &schema, tokens(20))));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{schema}: {took:?}");
        match answer {
            Ok(answer) => assert!(!answer.text.is_empty(), "{schema}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{schema}: {error}"),
        }
    }
}
