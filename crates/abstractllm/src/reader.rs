//! How settings as texts become typed.

use std::{collections::BTreeMap, fmt, str::FromStr};

use llm_core::{Error, ErrorKind, GenerateParams, Result};

use crate::{Config, config::hint};

/// The keys of [`ConfigReader::params`].
pub(crate) const PARAMS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_tokens",
    "stop",
    "seed",
    "system",
    "min_pixels",
    "max_pixels",
    "image_detail",
    "logit_bias",
    "adapter",
    "user",
];

/// Other names for keys that all providers have: those of the Python original.
pub(crate) const ALIASES: &[(&str, &str)] = &[("system_prompt", "system")];

/// Parameters of the Python original that are no settings, and where they have gone.
const ELSEWHERE: &[(&str, &str)] = &[
    ("image", "an image belongs to a request: `Request::images`"),
    ("images", "images belong to a request: `Request::images`"),
    ("tools", "tools belong to a request: `Request::with_tools`"),
    ("tool_choice", "it belongs to a request: `Request::tool_choice`"),
    (
        "content_filter",
        "services have no setting for it; an answer that was withheld ends with `FinishReason::ContentFilter`",
    ),
    ("moderation", "ask the service that moderates before the model is asked"),
    ("logging_enabled", "logs go through `tracing`; in the program, by `RUST_LOG`"),
];

/// Hands out the values of a [`Config`] one by one, and remembers which keys were asked for: those
/// are the known ones. For constructors of providers, see [`register_provider`](crate::register_provider).
#[derive(Debug)]
pub struct ConfigReader {
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl ConfigReader {
    /// Returns a reader of all keys of `config`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { values: config.into_inner(), known: Vec::new() }
    }

    /// Takes the text of `key`.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// Takes the text of `key` or of another name for it.
    ///
    /// # Errors
    /// If both are there.
    pub fn text_or(
        &mut self,
        key: &'static str,
        aliases: &[&'static str],
    ) -> Result<Option<String>> {
        let mut found = self.text(key).map(|text| (key, text));
        for &alias in aliases {
            // Not remembered by `text`: suggestions name the one that is documented.
            let Some(text) = self.values.remove(alias) else { continue };
            if let Some((other, _)) = found {
                return Err(invalid(format!(
                    "`{alias}` and `{other}` mean the same; give one of them"
                )));
            }
            found = Some((alias, text));
        }
        Ok(found.map(|(_, text)| text))
    }

    /// Takes the value of `key`; `expected` says what it must be.
    ///
    /// # Errors
    /// If the text is not one of `T`.
    pub fn value<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Result<Option<T>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let value = text.trim().parse().map_err(|_| unexpected(key, expected, &text))?;
        Ok(Some(value))
    }

    /// Takes the switch `key`; Python's spellings are read too.
    ///
    /// # Errors
    /// If the text is neither true nor false.
    pub fn switch(&mut self, key: &'static str) -> Result<Option<bool>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.trim() {
            "true" | "True" => Ok(Some(true)),
            "false" | "False" => Ok(Some(false)),
            _ => Err(unexpected(key, "true or false", &text)),
        }
    }

    /// Takes every key of [`GenerateParams`] and checks the ranges.
    ///
    /// # Errors
    /// If a text is not of its type or a value is out of its range.
    pub fn params(&mut self) -> Result<GenerateParams> {
        let (number, whole) = ("a number", "a whole number of at least 0");
        let params = GenerateParams {
            temperature: self.value("temperature", number)?,
            top_p: self.value("top_p", number)?,
            top_k: self.value("top_k", whole)?,
            min_p: self.value("min_p", number)?,
            repetition_penalty: self.value("repetition_penalty", number)?,
            frequency_penalty: self.value("frequency_penalty", number)?,
            presence_penalty: self.value("presence_penalty", number)?,
            max_tokens: self.value("max_tokens", whole)?,
            stop: self.stop()?,
            seed: self.value("seed", whole)?,
            system: self.text_or("system", &["system_prompt"])?,
            min_pixels: self.value("min_pixels", whole)?,
            max_pixels: self.value("max_pixels", whole)?,
            image_detail: self.value("image_detail", "auto, low or high")?,
            logit_bias: self.logit_bias()?,
            adapter: self.text("adapter"),
            user: self.text("user"),
        };
        params.validate()?;
        Ok(params)
    }

    fn stop(&mut self) -> Result<Vec<String>> {
        match self.text("stop") {
            None => Ok(Vec::new()),
            // A text that begins like a list is one; a stop text `[` is written `["["]`.
            Some(text) if text.trim_start().starts_with('[') => serde_json::from_str(&text)
                .map_err(|_| unexpected("stop", "a text or a JSON list of texts", &text)),
            Some(text) => Ok(vec![text]),
        }
    }

    fn logit_bias(&mut self) -> Result<BTreeMap<u32, f32>> {
        let Some(text) = self.text("logit_bias") else { return Ok(BTreeMap::new()) };
        serde_json::from_str(&text)
            .map_err(|_| unexpected("logit_bias", "a JSON object of token ids and numbers", &text))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// That names a key left over, and the nearest known one or all of them.
    pub fn finish(self) -> Result<()> {
        let Some(key) = self.values.keys().next() else { return Ok(()) };
        if let Some((_, where_to)) = ELSEWHERE.iter().find(|(known, _)| known == key) {
            return Err(invalid(format!("`{key}` is no setting: {where_to}")));
        }
        let help = hint(key, &self.known, || format!("known keys: {}", self.known.join(", ")));
        Err(invalid(format!("unknown key `{key}`; {help}")))
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

pub(crate) fn unexpected(key: &str, expected: impl fmt::Display, found: &str) -> Error {
    invalid(format!("`{key}`: expected {expected}, found `{found}`"))
}

#[cfg(test)]
mod tests {
    use llm_core::ImageDetail;

    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Result<GenerateParams> {
        let mut reader = ConfigReader::new(pairs.iter().copied().collect());
        let params = reader.params()?;
        reader.finish().map(|()| params)
    }

    #[test]
    fn every_parameter_has_a_text_form() {
        let found = params(&[
            ("temperature", "0.5"),
            ("top_p", "0.9"),
            ("top_k", "40"),
            ("min_p", "0.05"),
            ("repetition_penalty", "1.1"),
            ("frequency_penalty", "-0.5"),
            ("presence_penalty", "0.25"),
            ("max_tokens", "64"),
            ("stop", "END"),
            ("seed", "18446744073709551615"),
            ("system", "Be brief."),
            ("min_pixels", "3136"),
            ("max_pixels", "1003520"),
            ("image_detail", "low"),
            ("logit_bias", r#"{"50256": -100, "7": 0.5}"#),
            ("adapter", "mine"),
            ("user", "42"),
        ]);
        // Without `..Default::default()`, so that a new parameter cannot be forgotten here.
        let expected = GenerateParams {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(40),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(-0.5),
            presence_penalty: Some(0.25),
            max_tokens: Some(64),
            stop: vec!["END".into()],
            seed: Some(u64::MAX),
            system: Some("Be brief.".into()),
            min_pixels: Some(3136),
            max_pixels: Some(1_003_520),
            image_detail: Some(ImageDetail::Low),
            logit_bias: [(50256, -100.0), (7, 0.5)].into(),
            adapter: Some("mine".into()),
            user: Some("42".into()),
        };
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn the_list_of_parameters_is_what_is_asked_for() {
        let mut reader = ConfigReader::new(Config::default());
        reader.params().unwrap();
        assert_eq!(reader.known, PARAMS);
    }

    #[test]
    fn every_parameter_of_the_original_has_a_home() {
        // The values of `ModelParameter` in abstractllm/enums.py of the Python original.
        let all = "temperature max_tokens system_prompt top_p frequency_penalty presence_penalty \
                   stop model api_key base_url timeout retry_count logit_bias seed top_k \
                   repetition_penalty device device_map load_in_8bit load_in_4bit cache_dir \
                   organization user proxy request_timeout max_retries image images image_detail \
                   tools tool_choice content_filter moderation logging_enabled";
        // What `settings::mlx` and `settings::http` test, each with a value.
        let of_providers = "model api_key base_url timeout retry_count device device_map \
                            load_in_8bit load_in_4bit cache_dir organization proxy \
                            request_timeout max_retries";
        for name in all.split_whitespace() {
            let shared = PARAMS.contains(&name) || ALIASES.iter().any(|(alias, _)| *alias == name);
            let own = of_providers.split_whitespace().any(|own| own == name);
            let elsewhere = ELSEWHERE.iter().any(|(key, _)| *key == name);
            assert_eq!([shared, own, elsewhere].iter().filter(|is| **is).count(), 1, "{name}");
        }
        let error = params(&[("tools", "[]")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "`tools` is no setting: tools belong to a request: `Request::with_tools`"
        );
    }

    #[test]
    fn stop_is_a_text_or_a_list() {
        assert_eq!(params(&[("stop", r#"["a", "b"]"#)]).unwrap().stop, ["a", "b"]);
        assert_eq!(params(&[("stop", " a ")]).unwrap().stop, [" a "]);
        for bad in ["[1]", "[", r#"["a""#] {
            let error = params(&[("stop", bad)]).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`stop`: expected a text or a JSON list of texts, found `{bad}`")
            );
        }
    }

    #[test]
    fn a_bad_value_names_key_expected_and_found() {
        for (key, value, says) in [
            ("temperature", "hot", "`temperature`: expected a number, found `hot`"),
            ("max_tokens", "-1", "`max_tokens`: expected a whole number of at least 0, found `-1`"),
            ("seed", "1.5", "`seed`: expected a whole number of at least 0, found `1.5`"),
            (
                "logit_bias",
                "{\"a\": 1}",
                "`logit_bias`: expected a JSON object of token ids and numbers, found `{\"a\": 1}`",
            ),
            ("image_detail", "fine", "`image_detail`: expected auto, low or high, found `fine`"),
            ("top_p", "1.5", "top_p must be above 0 and at most 1, found 1.5"),
        ] {
            let error = params(&[(key, value)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert_eq!(error.to_string(), says);
        }
        let mut reader = ConfigReader::new([("offline", "maybe")].into());
        let error = reader.switch("offline").unwrap_err();
        assert_eq!(error.to_string(), "`offline`: expected true or false, found `maybe`");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        for (key, near) in [
            ("temprature", "temperature"),
            ("max-tokens", "max_tokens"),
            ("Top_P", "top_p"),
            ("max_new_tokens", "max_tokens"),
            ("sytsem", "system"),
        ] {
            let error = params(&[(key, "1")]).unwrap_err().to_string();
            assert_eq!(error, format!("unknown key `{key}`; did you mean `{near}`?"));
        }
        let error = params(&[("colour", "1")]).unwrap_err().to_string();
        assert!(
            error.starts_with("unknown key `colour`; known keys: temperature, top_p"),
            "{error}"
        );
    }
}
