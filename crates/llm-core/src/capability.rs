//! What a model can do, as data.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Declares the capabilities once: the name in Rust, the text, and the name in the Python original.
macro_rules! capabilities {
    ($($(#[$doc:meta])* $name:ident = $text:literal $(| $python:literal)*,)*) => {
        /// A thing that not every model can do; its text form is `snake_case`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Capability { $($(#[$doc])* $name,)* }

        impl Capability {
            /// Every capability.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the text form.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl FromStr for Capability {
            type Err = Error;

            /// Reads the text form, or the value of the Python original's `ModelCapability`.
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text $(| $python)* => Ok(Self::$name),)*
                    _ => Err(Error::new(
                        ErrorKind::InvalidRequest,
                        format!("expected a capability such as `vision`, found `{text}`"),
                    )),
                }
            }
        }
    };
}

capabilities! {
    /// Text arrives while it is made.
    Streaming = "streaming",
    /// A call does not hold up the thread of its caller.
    Async = "async" | "supports_async",
    /// A system prompt is honoured.
    SystemPrompt = "system_prompt" | "supports_system_prompt",
    /// Several turns of a conversation are read.
    MultiTurn = "multi_turn" | "supports_multi_turn",
    /// `max_tokens` is honoured; how many there can be is `ModelInfo::max_output_tokens`.
    MaxTokens = "max_tokens",
    /// Several requests are worked on at the same time.
    ParallelInference = "parallel_inference" | "supports_parallel_inference",
    /// One image in a request.
    Vision = "vision" | "supports_vision",
    /// Several images in a request.
    MultipleImages = "multiple_images",
    /// Videos in a request.
    Video = "video",
    /// An image may be an address, which the provider or its server fetches.
    ImageUrls = "image_urls",
    /// The same seed gives the same answer.
    Seed = "seed",
    /// `logit_bias` is honoured.
    LogitBias = "logit_bias",
    /// `adapter` is honoured: there are small changes to the model that a request may name.
    Adapters = "adapters",
    /// Tools can be called.
    ToolUse = "tool_use" | "supports_tool_use" | "supports_function_calling",
    /// Answers can be held to JSON.
    JsonMode = "json_mode" | "supports_json_mode",
    /// Answers can be held to a JSON schema.
    StructuredOutput = "structured_output",
    /// Several languages are spoken, as far as the maker of the model says so.
    Multilingual = "multilingual" | "supports_multilingual",
    /// The provider looks things up in documents of its own. None of this workspace does.
    Rag = "rag" | "supports_rag",
    /// The provider trains models. None of this workspace does.
    FineTuning = "fine_tuning" | "supports_fine_tuning",
    /// Texts become vectors. There is no call for it in this workspace.
    Embeddings = "embeddings" | "supports_embeddings",
    /// Images are made. There is no call for it in this workspace.
    ImageGeneration = "image_generation" | "supports_image_generation",
    /// Sound is read or made. There is no call for it in this workspace.
    AudioProcessing = "audio_processing" | "supports_audio_processing",
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The set of [`Capability`] of a model; its text form is a list with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Returns whether `capability` is in the set.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// Iterates over the set in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl Extend<Capability> for Capabilities {
    fn extend<I: IntoIterator<Item = Capability>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

impl FromStr for Capabilities {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_one_text() {
        for &capability in Capability::ALL {
            assert_eq!(capability.as_str().parse::<Capability>().unwrap(), capability);
            let json = serde_json::to_value(capability).unwrap();
            assert_eq!(json, capability.as_str());
        }
        let set: Capabilities = "vision, seed,".parse().unwrap();
        assert_eq!(set, Capabilities::from_iter([Capability::Seed, Capability::Vision]));
        assert!("sight".parse::<Capabilities>().unwrap_err().to_string().contains("`sight`"));
    }

    #[test]
    fn every_value_of_the_original_is_read() {
        // The values of `ModelCapability` in abstractllm/enums.py of the Python original.
        for value in [
            "streaming",
            "max_tokens",
            "supports_system_prompt",
            "supports_async",
            "supports_function_calling",
            "supports_tool_use",
            "supports_vision",
            "supports_fine_tuning",
            "supports_embeddings",
            "supports_multilingual",
            "supports_rag",
            "supports_multi_turn",
            "supports_parallel_inference",
            "supports_image_generation",
            "supports_audio_processing",
            "supports_json_mode",
        ] {
            let capability: Capability = value.parse().unwrap();
            assert!(value.ends_with(capability.as_str()) || capability == Capability::ToolUse);
        }
    }
}
