//! Settings of the providers behind HTTP.

use std::time::Duration;

use http_backend::ServerOptions;
use llm_core::{Capabilities, Provider, Result};

use crate::{
    Config,
    reader::{ConfigReader, invalid, unexpected},
};

/// Makes the provider `openai`.
///
/// # Errors
/// If a setting is unknown or not of its type, or as `OpenAiProvider::new`.
#[cfg(feature = "openai")]
pub(crate) fn openai(config: Config) -> Result<Box<dyn Provider>> {
    let (model, options) = openai_options(config)?;
    Ok(Box::new(http_backend::OpenAiProvider::new(model, options)?))
}

#[cfg(feature = "openai")]
fn openai_options(config: Config) -> Result<(String, http_backend::OpenAiOptions)> {
    let mut reader = ConfigReader::new(config);
    let common = Common::read(&mut reader)?;
    let organization = reader.text("organization");
    reader.finish()?;
    let model = named(common.model, "the name that the server has for it, as `gpt-5-mini`")?;
    let options = http_backend::OpenAiOptions {
        server: common.server,
        organization,
        defaults: common.defaults,
        capabilities: common.capabilities,
        context_tokens: common.context_tokens,
    };
    Ok((model, options))
}

/// Makes the provider `anthropic`.
///
/// # Errors
/// If a setting is unknown or not of its type, or as `AnthropicProvider::new`.
#[cfg(feature = "anthropic")]
pub(crate) fn anthropic(config: Config) -> Result<Box<dyn Provider>> {
    let mut reader = ConfigReader::new(config);
    let common = Common::read(&mut reader)?;
    reader.finish()?;
    let model = named(common.model, "the name that Anthropic has for it")?;
    let options = http_backend::AnthropicOptions {
        server: common.server,
        defaults: common.defaults,
        capabilities: common.capabilities,
        context_tokens: common.context_tokens,
    };
    Ok(Box::new(http_backend::AnthropicProvider::new(model, options)?))
}

/// What both have.
struct Common {
    model: Option<String>,
    server: ServerOptions,
    defaults: llm_core::GenerateParams,
    capabilities: Option<Capabilities>,
    context_tokens: Option<usize>,
}

impl Common {
    fn read(reader: &mut ConfigReader) -> Result<Self> {
        let model = reader.text("model");
        let server = server(reader)?;
        let list = "a list such as `vision, tool_use`";
        let capabilities = reader.value("capabilities", list)?;
        let context_tokens = reader.value("context_tokens", "a whole number of at least 1")?;
        if context_tokens == Some(0) {
            return Err(unexpected("context_tokens", "a whole number of at least 1", "0"));
        }
        let defaults = reader.params()?;
        Ok(Self { model, server, defaults, capabilities, context_tokens })
    }
}

/// Returns the model, once unknown keys have been told: a misspelt `model` is one of them.
fn named(model: Option<String>, expected: &str) -> Result<String> {
    model.ok_or_else(|| invalid(format!("missing key `model`: expected {expected}")))
}

fn server(reader: &mut ConfigReader) -> Result<ServerOptions> {
    const SECONDS: &str = "a number of seconds";
    let mut options = ServerOptions {
        base_url: reader.text("base_url"),
        api_key: reader.text("api_key").map(Into::into),
        proxy: reader.text("proxy"),
        ..ServerOptions::default()
    };
    let mut seconds = |key, aliases: &[&'static str]| -> Result<Option<Duration>> {
        let Some(text) = reader.text_or(key, aliases)? else { return Ok(None) };
        let parsed = text.trim().parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        let positive = parsed.filter(|time| !time.is_zero());
        positive.map(Some).ok_or_else(|| unexpected(key, SECONDS, &text))
    };
    options.timeout = seconds("timeout", &[])?;
    if let Some(time) = seconds("connect_timeout", &[])? {
        options.connect_timeout = time;
    }
    if let Some(time) = seconds("read_timeout", &["request_timeout"])? {
        options.read_timeout = time;
    }
    if let Some(time) = seconds("retry_wait", &[])? {
        options.retry_wait = time;
    }
    let whole = "a whole number of at least 0";
    if let Some(text) = reader.text_or("max_retries", &["retry_count"])? {
        let parsed = text.trim().parse();
        options.max_retries = parsed.map_err(|_| unexpected("max_retries", whole, &text))?;
    }
    Ok(options)
}

#[cfg(all(test, feature = "openai"))]
mod tests {
    use llm_core::Capability;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<http_backend::OpenAiOptions> {
        let config = pairs.iter().copied().chain([("model", "m")]).collect();
        openai_options(config).map(|(model, options)| {
            assert_eq!(model, "m");
            options
        })
    }

    #[test]
    fn every_option_has_a_text_form() {
        let found = options(&[
            ("base_url", "http://localhost:1/v1"),
            ("api_key", "sk-secret"),
            ("proxy", "http://proxy:3128"),
            ("timeout", "60"),
            ("connect_timeout", "0.5"),
            ("read_timeout", "2"),
            ("retry_wait", "0.1"),
            ("max_retries", "7"),
            ("organization", "org"),
            ("capabilities", "vision, supports_tool_use"),
            ("context_tokens", "4096"),
            ("temperature", "0.2"),
        ])
        .unwrap();
        let server = &found.server;
        assert_eq!(server.base_url.as_deref(), Some("http://localhost:1/v1"));
        assert!(server.api_key.is_some());
        assert_eq!(server.proxy.as_deref(), Some("http://proxy:3128"));
        assert_eq!(server.timeout, Some(Duration::from_secs(60)));
        assert_eq!(server.connect_timeout, Duration::from_millis(500));
        assert_eq!(server.read_timeout, Duration::from_secs(2));
        assert_eq!(server.retry_wait, Duration::from_millis(100));
        assert_eq!(server.max_retries, 7);
        assert_eq!(found.organization.as_deref(), Some("org"));
        assert_eq!(found.context_tokens, Some(4096));
        assert_eq!(found.defaults.temperature, Some(0.2));
        let capabilities = [Capability::Vision, Capability::ToolUse];
        assert_eq!(found.capabilities, Some(Capabilities::from_iter(capabilities)));
        assert!(!format!("{found:?}").contains("sk-secret"));
    }

    #[test]
    fn names_of_the_original_are_read() {
        let found = options(&[("retry_count", "1"), ("request_timeout", "3")]).unwrap();
        assert_eq!((found.server.max_retries, found.server.read_timeout.as_secs()), (1, 3));
        let error = options(&[("retry_count", "1"), ("max_retries", "2")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`retry_count` and `max_retries` mean the same; give one of them"
        );
    }

    #[test]
    fn bad_values_are_named() {
        for (key, value, says) in [
            ("timeout", "0", "`timeout`: expected a number of seconds, found `0`"),
            ("timeout", "-1", "`timeout`: expected a number of seconds, found `-1`"),
            ("max_retries", "x", "`max_retries`: expected a whole number of at least 0, found `x`"),
            (
                "capabilities",
                "sight",
                "`capabilities`: expected a list such as `vision, tool_use`, found `sight`",
            ),
            ("base_ulr", "x", "unknown key `base_ulr`; did you mean `base_url`?"),
        ] {
            assert_eq!(options(&[(key, value)]).unwrap_err().to_string(), says);
        }
        let error = openai_options(Config::default()).unwrap_err().to_string();
        assert!(error.starts_with("missing key `model`: expected the name"), "{error}");
    }
}
