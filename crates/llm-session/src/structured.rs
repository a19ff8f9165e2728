//! Answers that are values of Rust types.

use llm_core::{Error, ErrorKind, OutputFormat, Response, Result};
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
/// [`ErrorKind::Internal`] if the text is no `T`, which happens if `max_tokens` cut it.
pub fn parse<T: DeserializeOwned>(response: &Response) -> Result<T> {
    serde_json::from_str(response.text.trim()).map_err(|e| {
        let reason = response.completion.reason;
        let message = format!("the answer, which ended with {reason:?}, is not of the type asked");
        Error::new(ErrorKind::Internal, message).with_source(e)
    })
}
