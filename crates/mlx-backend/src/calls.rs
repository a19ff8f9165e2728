//! Calls of tools in what a model says, in the form that most models were trained on: an object with a
//! name and arguments between `<tool_call>` and `</tool_call>`, as in the templates of Hermes and Qwen.

use llm_core::ToolCall;
use serde::Deserialize;
use serde_json::Value;

/// What stands before a call.
pub(crate) const OPEN: &str = "<tool_call>";
/// What stands after it.
pub(crate) const CLOSE: &str = "</tool_call>";

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    Text(String),
    Call(ToolCall),
}

/// Tells calls from text while an answer comes in pieces. Text that is no call is given as it was said,
/// but for white space around calls.
#[derive(Debug, Default)]
pub(crate) struct CallReader {
    /// What was said and not given yet.
    held: String,
    /// Whether `held` follows an [`OPEN`].
    inside: bool,
    /// How much of `held` was searched for a [`CLOSE`].
    searched: usize,
    /// Whether nothing but white space followed the last call.
    after_call: bool,
    /// How many calls there were.
    calls: usize,
}

#[derive(Deserialize)]
struct Written {
    name: String,
    #[serde(default)]
    arguments: Option<Value>,
}

impl CallReader {
    /// Returns how many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next piece, and returns what is known now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Said> {
        self.held.push_str(text);
        let mut said = Vec::new();
        loop {
            let before = (self.inside, self.held.len());
            match self.inside {
                false => self.read_text(&mut said),
                true => self.read_call(&mut said),
            }
            if (self.inside, self.held.len()) == before {
                return said;
            }
        }
    }

    /// Ends the answer, and returns what was held back: a call of which only the last mark is missing, or
    /// text.
    pub(crate) fn finish(&mut self) -> Vec<Said> {
        let held = std::mem::take(&mut self.held);
        let mut said = Vec::new();
        if !std::mem::take(&mut self.inside) {
            add_text(&mut said, held);
        } else if let Some(call) = self.parse(&held) {
            said.push(Said::Call(call));
        } else {
            add_text(&mut said, format!("{OPEN}{held}"));
        }
        said
    }

    /// Gives text up to a call, but for what may be the start of one and white space before it.
    fn read_text(&mut self, said: &mut Vec<Said>) {
        if self.after_call {
            self.held = self.held.trim_start().to_owned();
            self.after_call = self.held.is_empty();
        }
        if let Some(at) = self.held.find(OPEN) {
            add_text(said, self.held[..at].trim_end().to_owned());
            self.held.drain(..at + OPEN.len());
            (self.inside, self.searched) = (true, 0);
            return;
        }
        let starts = (1..OPEN.len()).rev().find(|&length| self.held.ends_with(&OPEN[..length]));
        let end = self.held[..self.held.len() - starts.unwrap_or(0)].trim_end().len();
        add_text(said, self.held.drain(..end).collect());
    }

    fn read_call(&mut self, said: &mut Vec<Said>) {
        let at = loop {
            let Some(at) = self.held[self.searched..].find(CLOSE).map(|at| at + self.searched)
            else {
                // A mark may be cut by the border of two pieces; it is of ASCII, and so is its start.
                let from = self.held.len().saturating_sub(CLOSE.len() - 1);
                self.searched = self.searched.max(self.held.ceil_char_boundary(from));
                return;
            };
            if !ends_in_string(&self.held[..at]) {
                break at;
            }
            self.searched = at + CLOSE.len();
        };
        let written = self.held[..at].to_owned();
        match self.parse(&written) {
            Some(call) => {
                said.push(Said::Call(call));
                self.after_call = true;
            }
            None => add_text(said, format!("{OPEN}{written}{CLOSE}")),
        }
        self.held.drain(..at + CLOSE.len());
        self.inside = false;
    }

    fn parse(&mut self, written: &str) -> Option<ToolCall> {
        let Written { name, arguments } = serde_json::from_str(written.trim()).ok()?;
        self.calls += 1;
        let id = fresh_id();
        Some(match arguments {
            None => ToolCall::from_text(id, name, ""),
            Some(Value::String(text)) => ToolCall::from_text(id, name, &text),
            Some(arguments) => ToolCall::new(id, name, arguments),
        })
    }
}

fn add_text(said: &mut Vec<Said>, text: String) {
    if !text.is_empty() {
        said.push(Said::Text(text));
    }
}

/// Whether JSON that begins with `written` is in a string where `written` ends.
fn ends_in_string(written: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in written.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = inside,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// Returns an id that no other call has: the keys of a fresh hasher, which the system draws at random.
fn fresh_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::hash::RandomState::new().build_hasher().finish();
    format!("call_{bits:016x}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of `text` that comes in pieces of so many characters; texts joined, calls as name and
    /// arguments.
    fn read(text: &str, piece: usize) -> (String, Vec<(String, Value)>) {
        let mut reader = CallReader::default();
        let characters: Vec<char> = text.chars().collect();
        let mut all = Vec::new();
        for piece in characters.chunks(piece) {
            all.extend(reader.push(&piece.iter().collect::<String>()));
        }
        all.extend(reader.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for said in all {
            match said {
                Said::Text(more) => {
                    assert!(!more.is_empty());
                    text += &more;
                }
                Said::Call(call) => calls.push((call.name, call.arguments)),
            }
        }
        assert_eq!(calls.len(), reader.calls());
        (text, calls)
    }

    #[test]
    fn calls_and_text_are_told_apart_wherever_pieces_end() {
        let f = |arguments: Value| ("f".to_owned(), arguments);
        let cases = [
            ("Just text.\n\n", "Just text.\n\n", vec![]),
            (" <tool> < é", " <tool> < é", vec![]),
            ("<tool_call>{\"name\": \"f\"}</tool_call>", "", vec![f(json!({}))]),
            (
                "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n\
                 <tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n",
                "I look.",
                vec![f(json!({"a": 1})), f(json!({}))],
            ),
            (
                "<tool_call>{\"arguments\": {\"a\": \"</tool_call> é\\\" <tool_call>\"}, \"name\": \"f\"}\
                 </tool_call>",
                "",
                vec![f(json!({"a": "</tool_call> é\" <tool_call>"}))],
            ),
            // Arguments as a text of JSON, and as another text.
            (
                "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 2}\"}</tool_call>",
                "",
                vec![f(json!({"a": 2}))],
            ),
            (
                "<tool_call>{\"name\": \"f\", \"arguments\": \"a=2\"}</tool_call>",
                "",
                vec![f(json!("a=2"))],
            ),
            ("<tool_call>{\"name\": \"f\"}</tool_call>\n a b  c ", "a b  c ", vec![f(json!({}))]),
            // Only the last mark is missing.
            ("a <tool_call>\n{\"name\": \"f\"}\n", "a", vec![f(json!({}))]),
            // No calls.
            ("a <tool_call>\n{\"name\": \"f\"", "a<tool_call>\n{\"name\": \"f\"", vec![]),
            ("<tool_call>f(1)</tool_call>!", "<tool_call>f(1)</tool_call>!", vec![]),
            (
                "<tool_call>{\"name\": 1}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>",
                "<tool_call>{\"name\": 1}</tool_call>",
                vec![f(json!({}))],
            ),
        ];
        for (said, text, calls) in cases {
            for piece in [1, 2, 3, 5, 7, 1000] {
                assert_eq!(read(said, piece), (text.to_owned(), calls.clone()), "{said:?} {piece}");
            }
        }
    }

    #[test]
    fn text_is_given_as_soon_as_it_is_known() {
        let mut reader = CallReader::default();
        assert_eq!(reader.push("one two"), [Said::Text("one two".into())]);
        assert!(reader.push(" <tool_").is_empty());
        assert_eq!(reader.push("box>"), [Said::Text(" <tool_box>".into())]);
        let ids: Vec<String> = (0..100).map(|_| fresh_id()).collect();
        assert!(ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id)));
    }
}
