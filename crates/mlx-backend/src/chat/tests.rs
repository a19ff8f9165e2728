use std::{collections::HashMap, fs, path::PathBuf};

use llm_core::{Image, Role};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::tokenizer::Tokenizer;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn golden(name: &str) -> PathBuf {
    testdata().join("golden").join(name)
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Map::from_iter([("eos_token".to_owned(), json!("</s>"))])).unwrap()
}

fn image() -> Part {
    Part::Image(Image::encoded(vec![1]))
}

/// What `tools/golden/chat/make.py` writes.
#[derive(Deserialize)]
struct Cases {
    templates: HashMap<String, String>,
    conversations: HashMap<String, Vec<Vec<Json>>>,
    tokens: Map<String, Json>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    prompt: Option<String>,
    refused: Option<String>,
}

fn message(turn: &[Json]) -> Message {
    let role = serde_json::from_value::<Role>(turn[0].clone()).unwrap();
    let part = |part: &Json| part.as_str().map_or_else(image, Part::from);
    Message::new(role, turn[1..].iter().map(part))
}

#[test]
fn prompts_equal_those_of_transformers() {
    let text = fs::read_to_string(testdata().join("chat/cases.json")).unwrap();
    let golden: Cases = serde_json::from_str(&text).unwrap();
    let templates: HashMap<_, _> = golden
        .templates
        .iter()
        .map(|(name, source)| (name, ChatTemplate::new(source, golden.tokens.clone()).unwrap()))
        .collect();
    let mut refusals = 0;
    for case in &golden.cases {
        let conversation = &golden.conversations[&case.conversation];
        let messages: Vec<Message> = conversation.iter().map(|turn| message(turn)).collect();
        let chat = &templates[&case.template];
        let what = format!("{} of {}", case.conversation, case.template);
        match (chat.render(&messages, &[], case.add_generation_prompt), &case.prompt) {
            (prompt, Some(expected)) => assert_eq!(&prompt.expect(&what), expected, "{what}"),
            (Ok(prompt), None) => panic!("{what} must be refused, not {prompt:?}"),
            (Err(error), None) => {
                assert!(matches!(error, Error::Prompt(_)), "{what}: {error}");
                assert!(error.to_string().ends_with(case.refused.as_ref().unwrap()), "{error}");
                refusals += 1;
            }
        }
    }
    assert_eq!((golden.cases.len(), refusals), (68, 2));
}

/// What `tools/golden/chat/tools.py` writes.
#[derive(Deserialize)]
struct ToolCase {
    name: String,
    messages: Vec<Message>,
    tools: Vec<Tool>,
    prompt: String,
}

#[test]
fn prompts_with_tools_equal_those_of_transformers() {
    let read = |name: &str| fs::read_to_string(testdata().join("chat").join(name)).unwrap();
    let mut golden: Json = serde_json::from_str(&read("tools.json")).unwrap();
    let cases: Vec<ToolCase> = serde_json::from_value(golden["cases"].take()).unwrap();
    let chat = ChatTemplate::new(&read("hermes.jinja"), Map::new()).unwrap();
    assert!(chat.knows_tools());
    for ToolCase { name, messages, tools, prompt } in &cases {
        assert_eq!(&chat.render(messages, tools, true).unwrap(), prompt, "{name}");
    }
    assert_eq!(cases.len(), 10);
    // Those of the other cases show no tools, or no calls.
    let others: Cases = serde_json::from_str(&read("cases.json")).unwrap();
    for (name, source) in &others.templates {
        assert!(!ChatTemplate::new(source, Map::new()).unwrap().knows_tools(), "{name}");
    }
}

#[test]
fn prompts_and_tokens_equal_those_of_mlx_vlm() {
    let ask = |images: usize, text: &str| {
        Message::user(std::iter::repeat_with(image).take(images).chain([text.into()]))
    };
    for (case, dir, message) in [
        ("one_image", "tiny_fp32", ask(1, "what is it?")),
        ("one_image_flipped", "tiny_fp32", ask(1, "what is it?")),
        ("two_images", "tiny_fp32", ask(2, "compare")),
        ("text_only", "tiny_fp32", ask(0, "hello there")),
        ("q4_one_image", "tiny_q4", ask(1, "what is it?")),
    ] {
        let prompt =
            ChatTemplate::load(&golden(dir), None).unwrap().render(&[message], &[], true).unwrap();
        let bytes = fs::read(golden(&format!("{case}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(prompt, header.metadata().as_ref().unwrap()["prompt"], "{case}");

        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |name: &str| -> Vec<u32> {
            let data = tensors.tensor(name).unwrap().data();
            data.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect()
        };
        // Time, height and width in patches, of which four make a token.
        let grids =
            if prompt.contains("<|image_pad|>") { numbers("image_grid_thw") } else { vec![] };
        let mut counts = grids.as_chunks::<3>().0.iter().map(|[t, h, w]| t * h * w / 4);
        let tokenizer = Tokenizer::load(&golden(dir)).unwrap();
        let image_pad = tokenizer.token_to_id("<|image_pad|>").unwrap();
        let mut ids = vec![];
        for id in tokenizer.encode(&prompt).unwrap() {
            let count = if id == image_pad { counts.next().unwrap() } else { 1 };
            ids.extend(std::iter::repeat_n(id, count as usize));
        }
        assert_eq!(ids, numbers("input_ids"), "{case}");
        assert_eq!(counts.next(), None);
    }
}

#[test]
fn an_image_comes_before_the_text_whatever_their_order() {
    let chat = ChatTemplate::load(&golden("tiny_fp32"), None).unwrap();
    let expected = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n\
                    <|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what is it?\
                    <|im_end|>\n<|im_start|>assistant\n";
    for parts in [[image(), "what is it?".into()], ["what is it?".into(), image()]] {
        assert_eq!(chat.render(&[Message::user(parts)], &[], true).unwrap(), expected);
    }
}

#[test]
fn the_first_source_in_order_counts() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let rendered = || {
        ChatTemplate::load(dir.path(), None).unwrap().render(
            &[Message::user(["x".into()])],
            &[],
            true,
        )
    };
    let error = ChatTemplate::load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains(dir.path().to_str().unwrap()) && error.contains("none in"), "{error}");

    let named =
        json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "list"}]);
    write("tokenizer_config.json", &json!({"chat_template": named}).to_string());
    assert_eq!(rendered().unwrap(), "list");
    write(
        "tokenizer_config.json",
        &json!({"chat_template": "tokenizer {{ bos_token }}{{ eos_token }}",
        "bos_token": {"content": "<s>"}, "eos_token": null})
        .to_string(),
    );
    assert_eq!(rendered().unwrap(), "tokenizer <s>");
    write("chat_template.jinja", "jinja");
    assert_eq!(rendered().unwrap(), "jinja");
    write("chat_template.json", r#"{"chat_template": "json"}"#);
    assert_eq!(rendered().unwrap(), "json");
    write("processor_config.json", r#"{"image_processor": {}}"#);
    assert_eq!(rendered().unwrap(), "json");
    write("processor_config.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(rendered().unwrap(), "processor");
    write("processor_config.json", r#"{"chat_template": "{% if %}"}"#);
    let error = ChatTemplate::load(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("not a template") && error.contains("chat:1"), "{error}");
}

#[test]
fn a_template_without_plain_texts_gets_lists() {
    let lists = template("{% for p in messages[0].content %}{{ p.text }}{% endfor %}");
    assert_eq!(lists.render(&[Message::user(["hi".into()])], &[], true).unwrap(), "hi");
    let plain = template("{{ messages[0].content + eos_token }}");
    assert_eq!(plain.render(&[Message::user(["hi".into()])], &[], true).unwrap(), "hi</s>");
}

#[test]
fn a_hostile_template_comes_to_an_end() {
    let hello = [Message::user(["x".into()])];
    for (source, says) in [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% for a in range(90000) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}", "16777216 bytes"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 'a' * 1000000000 }}", "too large"),
        ("{{ range(1000000000) | list }}", "range"),
        (
            "{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}\
             {{ n.x }}",
            "nested",
        ),
    ] {
        let error = template(source).render(&hello, &[], true).unwrap_err();
        assert!(matches!(error, Error::Template(_)), "{error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
    }
    let long = "x".repeat(MAX_SOURCE_BYTES + 1);
    assert!(ChatTemplate::new(&long, Map::new()).unwrap_err().to_string().contains("at most"));
}

#[test]
fn a_written_out_control_token_is_refused() {
    let tokenizer = Tokenizer::load(&golden("tiny_fp32")).unwrap();
    let specials = tokenizer.special_tokens();
    for fine in ["", "a <b> |im_end|", "<|image_pad", "<|image_pad |>", "< |im_end|>"] {
        check_text(fine, specials).unwrap();
        let ids = tokenizer.encode(fine).unwrap();
        assert!(ids.iter().all(|&id| id < 256), "{fine}: {ids:?}");
    }
    for token in specials {
        let error = check_text(&format!("see {token}!"), specials).unwrap_err();
        assert!(matches!(error, Error::Prompt(_)), "{error}");
        assert!(error.to_string().contains(&format!("`{token}`")), "{error}");
    }
    // Two parts are one text for the tokenizer, and so they are for this check.
    let parts = Message::user(["<|im_".into(), "end|>".into()]);
    assert!(check_text(&parts.text(), specials).is_err());
}
