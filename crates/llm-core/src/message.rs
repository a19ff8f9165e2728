//! What is said: messages made of text, images, videos, and calls of tools with their results.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Image, ToolCall, ToolResult, Video};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The caller's tools: results only.
    Tool,
}

impl Role {
    /// Returns the name that chat templates use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

impl Message {
    /// Returns a message of `role` made of `parts`.
    pub fn new(role: Role, parts: impl IntoIterator<Item = Part>) -> Self {
        Self { role, parts: parts.into_iter().collect() }
    }

    /// Returns a system message.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, [Part::Text(text.into())])
    }

    /// Returns a user message made of `parts`: `Message::user(["What is this?".into(), image.into()])`.
    pub fn user(parts: impl IntoIterator<Item = Part>) -> Self {
        Self::new(Role::User, parts)
    }

    /// Returns an assistant message.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, [Part::Text(text.into())])
    }

    /// Returns a message of results, which answer the calls of the message before.
    pub fn tool(results: impl IntoIterator<Item = ToolResult>) -> Self {
        Self::new(Role::Tool, results.into_iter().map(Part::ToolResult))
    }

    /// Returns the text parts, joined without a separator.
    #[must_use]
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Part::as_text).collect()
    }

    /// Iterates over the images of this message, in order.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.parts.iter().filter_map(|part| match part {
            Part::Image(image) => Some(image),
            _ => None,
        })
    }

    /// Iterates over the videos of this message, in order.
    pub fn videos(&self) -> impl Iterator<Item = &Video> {
        self.parts.iter().filter_map(|part| match part {
            Part::Video(video) => Some(video),
            _ => None,
        })
    }

    /// Iterates over the calls of tools in this message, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            _ => None,
        })
    }

    /// Iterates over the results of tools in this message, in order.
    pub fn tool_results(&self) -> impl Iterator<Item = &ToolResult> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolResult(result) => Some(result),
            _ => None,
        })
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// Plain text.
    Text(String),
    /// An image.
    Image(Image),
    /// A video.
    Video(Video),
    /// A tool that the model wants to have run; in messages of [`Role::Assistant`].
    ToolCall(ToolCall),
    /// What a tool returned; in messages of [`Role::Tool`].
    ToolResult(ToolResult),
}

impl Part {
    /// Returns the text, if this is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns an image part that names a file; the provider reads it.
    pub fn image_file(path: impl Into<PathBuf>) -> Self {
        Self::Image(Image::Path(path.into()))
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Image> for Part {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

impl From<Video> for Part {
    fn from(video: Video) -> Self {
        Self::Video(video)
    }
}

impl From<ToolCall> for Part {
    fn from(call: ToolCall) -> Self {
        Self::ToolCall(call)
    }
}

impl From<ToolResult> for Part {
    fn from(result: ToolResult) -> Self {
        Self::ToolResult(result)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_is_the_same_after_json() {
        let image = Image::rgb(2, 1, vec![7; 6]).unwrap();
        let messages = [
            Message::system("Be brief."),
            Message::user(["What is this?".into(), image.into()]),
            Message::user([Image::encoded(vec![1, 2]).into(), Part::image_file("a.png")]),
            Message::new(Role::Assistant, [ToolCall::new("1", "f", json!({"a": 1})).into()]),
            Message::tool([ToolResult::error("1", "no")]),
        ];
        let json = serde_json::to_value(&messages).unwrap();
        assert_eq!(json[1]["parts"][0], json!({"text": "What is this?"}));
        assert_eq!(json[2]["parts"][0], json!({"image": {"encoded": "AQI="}}));
        let back: Vec<Message> = serde_json::from_value(json).unwrap();
        assert_eq!(back, messages);
    }
}
