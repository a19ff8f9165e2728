//! The messages of a conversation, as clients write them.

use std::str::FromStr;

use axum::http::StatusCode;
use llm_core::{Error, ErrorKind, Image, ImageDetail, Message, Part, Role, ToolResult, Video};
use serde_json::Value;

use super::{
    fields::{Fields, unexpected},
    tools,
};
use crate::{
    error::{ApiError, ApiResult},
    options::ImageSource,
};

/// What was read of a conversation.
pub(super) struct Conversation<'a> {
    images: &'a dyn ImageSource,
    /// Most bytes that all fetched images may still take.
    room: usize,
    pub(super) messages: Vec<Message>,
    /// How closely images are to be looked at; one for all of them.
    pub(super) detail: Option<ImageDetail>,
}

impl<'a> Conversation<'a> {
    /// Returns an empty conversation, whose images with an address come from `images`, at most `room`
    /// bytes of them.
    pub(super) fn new(images: &'a dyn ImageSource, room: usize) -> Self {
        Self { images, room, messages: Vec::new(), detail: None }
    }

    /// Reads the message `value`, which stands at `at`.
    pub(super) async fn read(&mut self, value: Value, at: &str) -> ApiResult<()> {
        let mut fields = Fields::of(value, at)?;
        let role: String = fields.need("role")?;
        let role = match role.as_str() {
            // Newer models of OpenAI call it so.
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => return self.tool_result(fields),
            _ => {
                let expected = "system, developer, user, assistant or tool";
                return Err(unexpected(&fields.path("role"), expected, &role.into()));
            }
        };
        let path = fields.path("tool_calls");
        let calls: Vec<Value> = fields.take("tool_calls")?.unwrap_or_default();
        let mut parts = match fields.value("content") {
            // A message that calls needs to say nothing, which some clients write as a text.
            Some(Value::String(text)) if text.is_empty() && !calls.is_empty() => Vec::new(),
            None if !calls.is_empty() => Vec::new(),
            None => return Err(ApiError::field(fields.path("content"), "missing")),
            Some(content) => self.content(content, &fields.path("content"), role).await?,
        };
        for (i, value) in calls.into_iter().enumerate() {
            parts.push(tools::call(value, &format!("{path}[{i}]"))?.into());
        }
        self.messages.push(Message::new(role, parts));
        Ok(())
    }

    /// Results of one turn are one message of ours.
    fn tool_result(&mut self, mut fields: Fields) -> ApiResult<()> {
        let path = fields.path("content");
        let content = match fields.value("content") {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => {
                let texts = parts.into_iter().enumerate().map(|(i, value)| {
                    Fields::of(value, &format!("{path}[{i}]"))?.need::<String>("text")
                });
                texts.collect::<ApiResult<String>>()?
            }
            None => return Err(ApiError::field(path, "missing")),
            Some(other) => return Err(unexpected(&path, "a text or a list of texts", &other)),
        };
        let result = ToolResult::new(fields.need::<String>("tool_call_id")?, content);
        match self.messages.last_mut() {
            Some(last) if last.role == Role::Tool => last.parts.push(result.into()),
            _ => self.messages.push(Message::tool([result])),
        }
        Ok(())
    }

    async fn content(&mut self, content: Value, at: &str, role: Role) -> ApiResult<Vec<Part>> {
        match content {
            Value::String(text) => Ok(vec![Part::Text(text)]),
            Value::Array(values) => {
                let mut parts = Vec::with_capacity(values.len());
                for (i, value) in values.into_iter().enumerate() {
                    parts.push(self.part(value, &format!("{at}[{i}]"), role).await?);
                }
                Ok(parts)
            }
            other => Err(unexpected(at, "a text or a list of parts", &other)),
        }
    }

    async fn part(&mut self, value: Value, at: &str, role: Role) -> ApiResult<Part> {
        let mut fields = Fields::of(value, at)?;
        let kind: String = fields.need("type")?;
        match kind.as_str() {
            "text" => Ok(Part::Text(fields.need("text")?)),
            "image_url" if role != Role::User => {
                Err(ApiError::field(at, format!("a {} message cannot hold images", role.as_str())))
            }
            "image_url" => {
                let (path, url) = url(&mut fields, "image_url", |of| self.note_detail(of))?;
                Ok(Part::Image(self.image(&url).await.map_err(|e| e.of_field(&path))?))
            }
            "video_url" if role != Role::User => {
                Err(ApiError::field(at, format!("a {} message cannot hold videos", role.as_str())))
            }
            // Not OpenAI's: vLLM has it.
            "video_url" => {
                let (path, url) = url(&mut fields, "video_url", |_| Ok(()))?;
                if !url.starts_with("data:") {
                    let message =
                        "expected a data URL of a video; addresses are fetched of images only";
                    return Err(ApiError::field(path, message));
                }
                let video = Video::data_url(&url);
                Ok(Part::Video(video.map_err(|e| ApiError::from(e).of_field(&path))?))
            }
            _ => {
                let expected = "text, image_url or video_url";
                Err(unexpected(&fields.path("type"), expected, &kind.into()))
            }
        }
    }

    fn note_detail(&mut self, fields: &mut Fields) -> ApiResult<()> {
        let path = fields.path("detail");
        let Some(word) = fields.take::<String>("detail")? else { return Ok(()) };
        let detail = ImageDetail::from_str(&word).map_err(|e| ApiError::from(e).of_field(&path))?;
        self.detail.get_or_insert(detail);
        Ok(())
    }

    /// What a client writes is never taken for a path of this machine.
    async fn image(&mut self, url: &str) -> ApiResult<Image> {
        if url.starts_with("data:") {
            return Ok(Image::data_url(url)?);
        }
        if !url.starts_with("https://") && !url.starts_with("http://") {
            let message = "expected a data URL or an address that begins with http:// or https://";
            return Err(Error::new(ErrorKind::Image, message).into());
        }
        let image = self.images.fetch(url).await?;
        if let Image::Encoded(bytes) = &image {
            // A short text may name many large images; memory is what bodies are bounded for.
            self.room = self.room.checked_sub(bytes.len()).ok_or_else(|| {
                let message = "the images of this request are larger than a body may be";
                ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("images_too_large")
            })?;
        }
        Ok(image)
    }
}

/// Takes the address in the field `key`, a text or the `url` of an object, of which `note` hears first; returns it
/// behind the path of the field.
fn url(
    fields: &mut Fields,
    key: &str,
    note: impl FnOnce(&mut Fields) -> ApiResult<()>,
) -> ApiResult<(String, String)> {
    let path = fields.path(key);
    let url = match fields.value(key) {
        // Not in OpenAI's reference, but some clients write it so.
        Some(Value::String(url)) => url,
        Some(value) => {
            let mut fields = Fields::of(value, &path)?;
            note(&mut fields)?;
            fields.need("url")?
        }
        None => return Err(ApiError::field(path, "missing")),
    };
    Ok((path, url))
}
