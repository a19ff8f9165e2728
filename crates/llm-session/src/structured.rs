//! Answers that are values of Rust types.

use llm_core::{Error, ErrorKind, FinishReason, OutputFormat, Response, Result};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// Returns the form of answers that are a `T`, for [`Session::output`](crate::Session::output) or
/// [`Request::with_output`](llm_core::Request::with_output).
///
/// ```
/// use llm_session::{output_of, schemars};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Scene {
///     shapes: Vec<String>,
/// }
///
/// let request = llm_core::Request::text("List the shapes.").with_output(output_of::<Scene>());
/// ```
#[must_use]
pub fn output_of<T: JsonSchema>() -> OutputFormat {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String =
        T::schema_name().chars().map(|c| if allowed(c) { c } else { '_' }).take(64).collect();
    OutputFormat::json_schema(name, schemars::schema_for!(T).to_value())
}

/// Returns the value that `response` holds.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] if `max_tokens`, a stop text or the service ended the answer before it
/// was whole; [`ErrorKind::Internal`] if it is whole and no `T`.
pub fn parse<T: DeserializeOwned>(response: &Response) -> Result<T> {
    serde_json::from_str(response.text.trim()).map_err(|e| {
        let cut = match response.completion.reason {
            FinishReason::Length => Some(format!(
                "after {} tokens: raise max_tokens, or bound the lengths in the schema",
                response.completion.usage.completion_tokens
            )),
            FinishReason::ContentFilter => Some("by the service".to_owned()),
            FinishReason::ToolCalls => Some("by a call of tools".to_owned()),
            _ => e.is_eof().then(|| "by a stop text".to_owned()),
        };
        let (kind, message) = match cut {
            Some(how) => {
                let message = format!("the answer was ended {how}, before it was whole");
                (ErrorKind::InvalidRequest, message)
            }
            None => (ErrorKind::Internal, "the answer is not of the type asked".to_owned()),
        };
        Error::new(kind, message).with_source(e)
    })
}
