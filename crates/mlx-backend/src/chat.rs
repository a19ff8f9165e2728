//! A conversation as the text that the model was trained on: the checkpoint's own Jinja template.
//!
//! Source: transformers `utils/chat_template_utils.py`, whose environment (`trim_blocks`,
//! `lstrip_blocks`, Python string methods, `raise_exception`, `strftime_now`) is kept to.

use std::path::Path;

use llm_core::{Message, Part};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use serde_json::{Value as Json, json};

use crate::{
    Error, Result,
    checkpoint::{read_json_if_any, read_text_if_any},
    tokenizer::token_text,
};

/// Steps a template may take: a long conversation takes thousands, an endless loop any number.
const FUEL: u64 = 20_000_000;
/// Longest text that a template may make, in bytes.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Nesting a template may reach.
const MAX_RECURSION: usize = 64;

/// The chat template of one checkpoint.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Loads the template from the folder `dir`: `processor_config.json` before
    /// `chat_template.json`, `chat_template.jinja` and `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::Template`] if there is none or it is not a template.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let tokenizer = read_json_if_any(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let from_json = |name: &str| -> Result<Option<String>> {
            Ok(read_json_if_any(&dir.join(name))?.as_ref().and_then(named_template))
        };
        let source = match from_json("processor_config.json")? {
            Some(source) => Some(source),
            None => match from_json("chat_template.json")? {
                Some(source) => Some(source),
                None => read_text_if_any(&dir.join("chat_template.jinja"))?,
            },
        };
        let source = source.or_else(|| named_template(&tokenizer)).ok_or_else(|| {
            Error::Template(format!(
                "{}: none in chat_template.json, chat_template.jinja or tokenizer_config.json",
                dir.display()
            ))
        })?;
        let token = |name: &str| tokenizer.get(name).and_then(token_text).map(str::to_owned);
        Self::new(source, token("bos_token"), token("eos_token"))
    }

    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Template`] with the line that is wrong.
    pub(crate) fn new(
        source: String,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned("chat", source)
            .map_err(|e| Error::Template(format!("{e:#}")))?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// Renders `messages`, and the start of the answer if `add_generation_prompt`. In a message
    /// with images these come first, then its text.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the conversation or does not come to an end.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String> {
        let fail = |e: minijinja::Error| Error::Template(e.to_string());
        let messages: Vec<Json> = messages.iter().map(template_message).collect();
        let template = self.environment.get_template("chat").map_err(fail)?;
        let mut output = Bounded(Vec::new());
        let rendered = template.render_captured_to(
            context! {
                messages => Value::from_serialize(&messages),
                add_generation_prompt,
                bos_token => self.bos_token,
                eos_token => self.eos_token,
            },
            &mut output,
        );
        rendered.map_err(fail)?;
        String::from_utf8(output.0).map_err(|e| Error::Template(e.to_string()))
    }
}

/// Refuses a text in which a special token of the tokenizer is written out.
///
/// The tokenizer would read it as that token: an image placeholder without an image, or the end of
/// the turn, after which the text could speak for somebody else.
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

/// Returns `chat_template`: a text, or the one named `default` of a list.
fn named_template(config: &Json) -> Option<String> {
    match config.get("chat_template")? {
        Json::String(source) => Some(source.clone()),
        Json::Array(named) => named.iter().find_map(|entry| {
            (entry.get("name")?.as_str()? == "default")
                .then(|| entry.get("template")?.as_str().map(str::to_owned))?
        }),
        _ => None,
    }
}

fn template_message(message: &Message) -> Json {
    let text = message.text();
    let images = message.images().count();
    let content = match images {
        0 => Json::String(text),
        _ => {
            let mut parts = vec![json!({"type": "image"}); images];
            if message.parts.iter().any(|part| matches!(part, Part::Text(_))) {
                parts.push(json!({"type": "text", "text": text}));
            }
            Json::Array(parts)
        }
    };
    json!({"role": message.role.as_str(), "content": content})
}

/// The date, for templates that tell the model what day it is.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let days = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() / 86_400);
    let (year, month, day) = civil_from_days(days as i64);
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = MONTHS[month as usize - 1];
    Ok(format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", &name[..3]))
}

/// Days since 1970 to year, month and day. Source: H. Hinnant, "chrono-compatible low-level date
/// algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
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
mod tests {
    use std::path::PathBuf;

    use llm_core::Image;

    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source.to_owned(), None, Some("</s>".to_owned())).unwrap()
    }

    #[test]
    fn an_image_comes_before_the_text_whatever_their_order() {
        let chat = ChatTemplate::load(&golden("tiny_fp32")).unwrap();
        let image = || Part::Image(Image::encoded(vec![1]));
        let expected = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n\
                        <|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what is it?\
                        <|im_end|>\n<|im_start|>assistant\n";
        for parts in [[image(), "what is it?".into()], ["what is it?".into(), image()]] {
            assert_eq!(chat.render(&[Message::user(parts)], true).unwrap(), expected);
        }
    }

    #[test]
    fn templates_use_python_and_say_what_they_refuse() {
        let chat = template("{{ messages[0].content.strip().split(' ')[1] }}{{ eos_token }}");
        let hello = [Message::user([" a b ".into()])];
        assert_eq!(chat.render(&hello, false).unwrap(), "b</s>");
        let refuses = template("{{ raise_exception('roles must alternate') }}");
        assert!(refuses.render(&hello, true).unwrap_err().to_string().contains("must alternate"));
    }

    #[test]
    fn a_hostile_template_comes_to_an_end() {
        let hello = [Message::user(["x".into()])];
        let endless =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        assert!(template(endless).render(&hello, true).is_err());
        let long = "{% for a in range(90000) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}";
        assert!(template(long).render(&hello, true).is_err());
    }

    #[test]
    fn a_written_out_control_token_is_refused() {
        let specials = ["<|image_pad|>".to_owned(), "<|im_end|>".to_owned()];
        assert!(check_text("a <b> |im_end|", &specials).is_ok());
        let error = check_text("see <|image_pad|>", &specials).unwrap_err();
        assert!(error.to_string().contains("`<|image_pad|>`"), "{error}");
    }

    #[test]
    fn dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(11_016), (2000, 2, 29));
        assert_eq!(civil_from_days(20_781), (2026, 11, 24));
    }
}
