//! A conversation as the text that the model was trained on: the checkpoint's own Jinja template.
//!
//! Source: transformers 5.23 `utils/chat_template_utils.py`; `chat/tests.rs` compares with it.

mod environment;
mod python;
mod tools;

use std::{error::Error as _, path::Path};

use llm_core::{Message, Part, Role, Tool};
use minijinja::{Environment, Value, context};
use serde_json::{Map, Value as Json};

use self::environment::{MAX_SOURCE_BYTES, contained, environment, refusal};
use crate::{
    Error, Result,
    checkpoint::{read_json_if_any, read_text_if_any},
    tokenizer::token_text,
};

/// Longest text that a template may make, in bytes. A prompt of this size fits no context.
const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// The special tokens that transformers hands to templates, where a checkpoint has them.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// The chat template of one checkpoint.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Map<String, Json>,
    /// Whether the template shows a content that is a plain text. Some only go through the parts
    /// of a list, and show nothing, or each character, of a text.
    reads_plain_text: bool,
    /// Whether it shows tools, calls in the form that [`crate::calls`] reads, and results.
    knows_tools: bool,
}

impl ChatTemplate {
    /// Loads the template from the folder `dir`. The first of these counts:
    /// `processor_config.json`, `chat_template.json`, `chat_template.jinja`,
    /// `tokenizer_config.json`, `usual`.
    ///
    /// # Errors
    /// [`Error::Template`] if there is none or it is not a template; [`Error::Config`] or
    /// [`Error::Io`] if a file cannot be read.
    pub(crate) fn load(dir: &Path, usual: Option<&str>) -> Result<Self> {
        let json = |name: &str| read_json_if_any(&dir.join(name));
        let tokenizer = json("tokenizer_config.json")?.unwrap_or_default();
        let named = |config: Option<Json>| config.as_ref().and_then(named_template);
        let source = match named(json("processor_config.json")?) {
            Some(source) => Some(source),
            None => match named(json("chat_template.json")?) {
                Some(source) => Some(source),
                None => read_text_if_any(&dir.join("chat_template.jinja"))?,
            },
        };
        let source = source.or_else(|| named_template(&tokenizer));
        let source = source.or_else(|| usual.map(str::to_owned)).ok_or_else(|| {
            Error::Template(format!(
                "{}: none in chat_template.json, chat_template.jinja or tokenizer_config.json",
                dir.display()
            ))
        })?;
        let token = |name: &str| Some((name.to_owned(), token_text(tokenizer.get(name)?)?.into()));
        Self::new(&source, TOKENS.into_iter().filter_map(token).collect()).map_err(|error| {
            match error {
                Error::Template(reason) => Error::Template(format!("{}: {reason}", dir.display())),
                other => other,
            }
        })
    }

    /// Compiles `source`; `tokens` are what it may call `bos_token` and so on.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that is wrong.
    pub(crate) fn new(source: &str, tokens: Map<String, Json>) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            let length = source.len();
            return Err(Error::Template(format!(
                "expected at most {MAX_SOURCE_BYTES} bytes, found {length}"
            )));
        }
        let environment = environment(source)
            .map_err(|e| Error::Template(format!("not a template: {}", chain(&e))))?;
        let mut template = Self { environment, tokens, reads_plain_text: true, knows_tools: false };
        template.reads_plain_text = template.shows(PROBE.into()).unwrap_or(false)
            || !template.shows(vec![text_part(PROBE)].into()).unwrap_or(false);
        template.knows_tools = template.shows_tools();
        Ok(template)
    }

    /// Whether conversations may have tools.
    pub(crate) fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// Renders `messages` and the `tools` that may be called, and the start of the answer if
    /// `add_generation_prompt`. In a message with images and videos these come first, then its text.
    ///
    /// # Errors
    /// [`Error::Prompt`] if the template refuses the conversation, for its order of roles say;
    /// [`Error::Template`] if it fails or does not come to an end.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_values(self.values(messages), tools, add_generation_prompt)
    }

    fn render_values(
        &self,
        messages: Vec<Value>,
        tools: &[Tool],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let fail = |e: minijinja::Error| match refusal(&e) {
            Some(reason) => {
                Error::Prompt(format!("the chat template refuses the conversation: {reason}"))
            }
            None => Error::Template(chain(&e)),
        };
        let template = self.environment.get_template(environment::NAME).map_err(fail)?;
        let mut output = Bounded(Vec::new());
        let given = context! {
            messages,
            add_generation_prompt,
            // Defined, but nothing: templates compare them with `none`.
            tools => tools::definitions(tools),
            documents => (),
        };
        let tokens = Value::from_serialize(&self.tokens);
        let context = context! { ..given, ..tokens };
        contained(|| template.render_captured_to(context, &mut output).map(drop)).map_err(fail)?;
        String::from_utf8(output.0).map_err(|e| Error::Template(e.to_string()))
    }

    /// Returns `messages` as templates take them: each result of a tool is one by itself.
    fn values(&self, messages: &[Message]) -> Vec<Value> {
        let mut names = tools::Names::default();
        let mut values = Vec::with_capacity(messages.len());
        for message in messages {
            match message.role {
                Role::Tool => values.extend(message.tool_results().map(|result| {
                    let content = self.content(&result.content, [].into_iter(), true);
                    names.result(result, content)
                })),
                _ => values.push(self.message(message, &mut names)),
            }
        }
        values
    }

    fn message<'a>(&self, message: &'a Message, names: &mut tools::Names<'a>) -> Value {
        let has_text = message.parts.iter().any(|part| matches!(part, Part::Text(_)));
        let media = message.parts.iter().filter_map(|part| match part {
            Part::Image(_) => Some("image"),
            Part::Video(_) => Some("video"),
            _ => None,
        });
        let content = self.content(&message.text(), media, has_text);
        // In this order, in which a template may print them.
        let value = context! { role => message.role.as_str(), content };
        match names.calls(message) {
            Some(tool_calls) => context! { ..value, ..context! { tool_calls } },
            None => value,
        }
    }

    /// Returns what is said in a message with images and videos, `media` by their types, and a text unless it has none.
    fn content(
        &self,
        text: &str,
        media: impl Iterator<Item = &'static str>,
        has_text: bool,
    ) -> Value {
        let mut parts: Vec<Value> = media.map(|kind| context! { type => kind }).collect();
        if parts.is_empty() && self.reads_plain_text {
            return Value::from(text);
        }
        if has_text {
            parts.push(text_part(text));
        }
        Value::from(parts)
    }

    /// Whether the template shows videos.
    pub(crate) fn shows_videos(&self) -> bool {
        let rendered = |parts: Vec<Value>| {
            let message = context! { role => "user", content => parts };
            self.render_values(vec![message], &[], true).ok()
        };
        let (text, video) = (text_part(PROBE), context! { type => "video" });
        rendered(vec![video, text.clone()]).is_some_and(|shown| Some(shown) != rendered(vec![text]))
    }

    /// Whether a user's `content` gets into the prompt.
    fn shows(&self, content: Value) -> Result<bool> {
        let message = context! { role => "user", content };
        Ok(self.render_values(vec![message], &[], true)?.contains(PROBE))
    }
}

/// A text that no template holds itself.
const PROBE: &str = "whatever-a-user-may-say";

/// Refuses a text in which a special token of the tokenizer is written out.
///
/// The tokenizer would read it as that token, since prompts are tokenised as a whole. An image
/// placeholder would stand for no image, or for that of another message. All other special tokens
/// are refused as well: with the end of a turn, a document that a program puts into a prompt could
/// end the user's turn and speak for the system. Escaping instead would change what was said, and
/// how a model reads an escaped token is anybody's guess.
///
/// # Errors
/// [`Error::Prompt`] that names the token.
pub(crate) fn check_text(text: &str, special_tokens: &[String]) -> Result<()> {
    match special_tokens.iter().find(|token| !token.is_empty() && text.contains(*token)) {
        None => Ok(()),
        Some(token) => Err(Error::Prompt(format!(
            "the text contains `{token}`, which the model reads as a control token; leave it out"
        ))),
    }
}

fn text_part(text: &str) -> Value {
    context! { type => "text", text }
}

/// Returns the messages of `error` and of its sources.
fn chain(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    text
}

/// Returns `chat_template`: a text, or the one named `default` of a list.
fn named_template(config: &Json) -> Option<String> {
    match config.get("chat_template")? {
        Json::String(source) => Some(source.clone()),
        Json::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| Some(entry["template"].as_str()?.to_owned())),
        _ => None,
    }
}

/// Takes a bounded number of bytes.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(std::io::Error::other(format!(
                "the chat template made more than {MAX_OUTPUT_BYTES} bytes"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
