//! How an answer is wanted: sampling, length and image size.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, ImageDetail, Result};

/// Parameters of one generation; `None` leaves the choice to the provider, whose defaults are given.
///
/// ```
/// use llm_core::GenerateParams;
/// let params = GenerateParams { max_tokens: Some(64), ..Default::default() };
/// assert!(params.validate().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateParams {
    /// Randomness, 0.0..=2.0; 0 takes the likeliest token each time. Default 0.
    pub temperature: Option<f32>,
    /// Keeps the smallest set of tokens whose probabilities reach this, 0.0 < p <= 1.0. Default 1.
    pub top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 keeps all. Default 0.
    pub top_k: Option<u32>,
    /// Drops tokens less likely than this times the likeliest, 0.0..=1.0. Default 0.
    pub min_p: Option<f32>,
    /// Divides (positive) or multiplies (negative) the logits of tokens already seen, > 0.0;
    /// 1 changes nothing. Default 1. Source: CTRL, arXiv:1909.05858.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was generated, -2.0..=2.0. Default 0.
    pub frequency_penalty: Option<f32>,
    /// Subtracted once from the logit of each token that was generated, -2.0..=2.0. Default 0.
    pub presence_penalty: Option<f32>,
    /// Most new tokens, at least 1. Default 512.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer and are left out of it; none may be empty.
    pub stop: Vec<String>,
    /// Makes sampling repeatable. Default: a fresh seed each time.
    pub seed: Option<u64>,
    /// System prompt, put before the messages; an error if they hold a system message too.
    pub system: Option<String>,
    /// Fewest pixels of an image after resizing. Default: the model's own.
    pub min_pixels: Option<u64>,
    /// Most pixels of an image after resizing. Default: the model's own.
    pub max_pixels: Option<u64>,
    /// How closely a service looks at images; a model on this machine goes by `max_pixels`.
    pub image_detail: Option<ImageDetail>,
    /// Added to the logits of tokens, by token id, -100.0..=100.0; for providers with
    /// [`Capability::LogitBias`](crate::Capability::LogitBias).
    pub logit_bias: BTreeMap<u32, f32>,
    /// Name of the adapter with which the model answers, for providers with
    /// [`Capability::Adapters`](crate::Capability::Adapters). Default: none, the model as it is.
    pub adapter: Option<String>,
    /// Who asks, as a service should know them (no name or address); of no meaning to a model on this
    /// machine.
    pub user: Option<String>,
}

impl GenerateParams {
    /// Default of [`max_tokens`](Self::max_tokens).
    pub const DEFAULT_MAX_TOKENS: u32 = 512;

    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] that names the first field out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: Option<f32>, ok: fn(f32) -> bool, range: &str| match value {
            Some(v) if !ok(v) => Err(invalid(format!("{name} must be {range}, found {v}"))),
            _ => Ok(()),
        };
        check("temperature", self.temperature, |v| (0.0..=2.0).contains(&v), "within 0..=2")?;
        check("top_p", self.top_p, |v| v > 0.0 && v <= 1.0, "above 0 and at most 1")?;
        check("min_p", self.min_p, |v| (0.0..=1.0).contains(&v), "within 0..=1")?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            |v| v > 0.0 && v.is_finite(),
            "above 0",
        )?;
        for (name, value) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ] {
            check(name, value, |v| (-2.0..=2.0).contains(&v), "within -2..=2")?;
        }
        if self.max_tokens == Some(0) {
            return Err(invalid("max_tokens must be at least 1, found 0".to_owned()));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(invalid("stop must not hold an empty text".to_owned()));
        }
        if let (Some(min), Some(max)) = (self.min_pixels, self.max_pixels)
            && min > max
        {
            return Err(invalid(format!("min_pixels {min} is above max_pixels {max}")));
        }
        if self.max_pixels == Some(0) {
            return Err(invalid("max_pixels must be at least 1, found 0".to_owned()));
        }
        if let Some((token, bias)) =
            self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(*bias))
        {
            return Err(invalid(format!(
                "logit_bias must be within -100..=100, found {bias} for token {token}"
            )));
        }
        Ok(())
    }

    /// Returns these parameters with every unset field taken from `defaults`.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            temperature: self.temperature.or(defaults.temperature),
            top_p: self.top_p.or(defaults.top_p),
            top_k: self.top_k.or(defaults.top_k),
            min_p: self.min_p.or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.or(defaults.presence_penalty),
            max_tokens: self.max_tokens.or(defaults.max_tokens),
            stop: if self.stop.is_empty() { defaults.stop.clone() } else { self.stop },
            seed: self.seed.or(defaults.seed),
            system: self.system.or_else(|| defaults.system.clone()),
            min_pixels: self.min_pixels.or(defaults.min_pixels),
            max_pixels: self.max_pixels.or(defaults.max_pixels),
            image_detail: self.image_detail.or(defaults.image_detail),
            logit_bias: match self.logit_bias.is_empty() {
                true => defaults.logit_bias.clone(),
                false => self.logit_bias,
            },
            adapter: self.adapter.or_else(|| defaults.adapter.clone()),
            user: self.user.or_else(|| defaults.user.clone()),
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_is_checked_and_named() {
        let none = GenerateParams::default();
        let bad = [
            ("temperature", GenerateParams { temperature: Some(-0.1), ..none.clone() }),
            ("temperature", GenerateParams { temperature: Some(f32::NAN), ..none.clone() }),
            ("top_p", GenerateParams { top_p: Some(0.0), ..none.clone() }),
            ("min_p", GenerateParams { min_p: Some(1.5), ..none.clone() }),
            (
                "repetition_penalty",
                GenerateParams { repetition_penalty: Some(0.0), ..none.clone() },
            ),
            ("frequency_penalty", GenerateParams { frequency_penalty: Some(3.0), ..none.clone() }),
            ("presence_penalty", GenerateParams { presence_penalty: Some(-3.0), ..none.clone() }),
            ("max_tokens", GenerateParams { max_tokens: Some(0), ..none.clone() }),
            ("stop", GenerateParams { stop: vec![String::new()], ..none.clone() }),
            ("max_pixels", GenerateParams { max_pixels: Some(0), ..none.clone() }),
            ("logit_bias", GenerateParams { logit_bias: [(5, f32::NAN)].into(), ..none.clone() }),
            (
                "min_pixels",
                GenerateParams { min_pixels: Some(9), max_pixels: Some(8), ..none.clone() },
            ),
        ];
        for (field, params) in bad {
            let error = params.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().starts_with(field), "{field}: {error}");
        }
        assert!(none.validate().is_ok());
    }

    #[test]
    fn own_values_win_over_defaults() {
        let defaults = GenerateParams {
            temperature: Some(0.7),
            max_tokens: Some(10),
            stop: vec!["x".into()],
            ..Default::default()
        };
        let own = GenerateParams { temperature: Some(0.0), ..Default::default() }.or(&defaults);
        assert_eq!(own.temperature, Some(0.0));
        assert_eq!(own.max_tokens, Some(10));
        assert_eq!(own.stop, ["x"]);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = serde_json::from_str::<GenerateParams>(r#"{"temprature": 1}"#).unwrap_err();
        assert!(error.to_string().contains("temprature"), "{error}");
    }
}
