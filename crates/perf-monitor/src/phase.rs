//! The vocabulary that libraries report in: phases, counters and gauges.

use crate::names::named_enum;

named_enum! {
    /// A step of the engine.
    ///
    /// A phase may nest in another (an image is decoded while a prompt is prepared); totals per phase are therefore
    /// not meant to be summed. Each phase counts its own kind of work item, see [`Phase::unit`].
    pub enum Phase {
        /// Waiting for the thread that owns the model. Counts requests.
        Queue = "queue",
        /// Bringing bytes here, from the network or from a file. Counts bytes.
        Fetch = "fetch",
        /// Reading weights and building the model. Counts bytes.
        Load = "load",
        /// Quantising weights while loading. Counts bytes of the result.
        Quantise = "quantise",
        /// Rendering the chat template and turning it into tokens. Counts tokens.
        Tokenise = "tokenise",
        /// Turning an image file into RGB. Counts pixels.
        DecodeImage = "decode_image",
        /// Scaling an image. Counts pixels of the result.
        Resize = "resize",
        /// Turning RGB bytes into normalised floats. Counts pixels.
        Normalise = "normalise",
        /// Putting pixels in the model's patch order. Counts patches.
        Patchify = "patchify",
        /// Running the vision tower and its connector. Counts patches.
        VisionTower = "vision_tower",
        /// Prefilling prompt tokens that had to be computed. Counts tokens.
        PrefillNew = "prefill_new",
        /// Taking prompt tokens over from a cache. Counts tokens.
        PrefillReused = "prefill_reused",
        /// Computing one further token, sampling included. Counts tokens.
        DecodeStep = "decode_step",
        /// Choosing a token from logits, where measured apart. Counts tokens.
        Sample = "sample",
        /// Turning tokens into text. Counts tokens.
        Detokenise = "detokenise",
    }
}

impl Phase {
    /// What this phase counts, in the plural: `tokens`, `bytes`, `pixels`, `patches` or `requests`.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Queue => "requests",
            Self::Fetch | Self::Load | Self::Quantise => "bytes",
            Self::DecodeImage | Self::Resize | Self::Normalise => "pixels",
            Self::Patchify | Self::VisionTower => "patches",
            Self::Tokenise
            | Self::PrefillNew
            | Self::PrefillReused
            | Self::DecodeStep
            | Self::Sample
            | Self::Detokenise => "tokens",
        }
    }
}

named_enum! {
    /// Something that only grows while a process lives.
    pub enum Counter {
        /// Requests accepted.
        Requests = "requests",
        /// Tokens generated.
        NewTokens = "new_tokens",
        /// Tokens guessed ahead of the model.
        DraftedTokens = "drafted_tokens",
        /// Guessed tokens that were those of the model.
        AcceptedTokens = "accepted_tokens",
        /// Prompt tokens computed.
        PromptTokens = "prompt_tokens",
        /// Prompt tokens taken over from a cache.
        ReusedTokens = "reused_tokens",
        /// Images that entered a prompt.
        Images = "images",
        /// Bytes read from files.
        BytesRead = "bytes_read",
        /// Bytes that came over the network.
        BytesDownloaded = "bytes_downloaded",
        /// Preprocessed images found in a cache.
        ImageCacheHits = "image_cache_hits",
        /// Preprocessed images not found in a cache.
        ImageCacheMisses = "image_cache_misses",
        /// Vision features found in a cache.
        FeatureCacheHits = "feature_cache_hits",
        /// Vision features not found in a cache.
        FeatureCacheMisses = "feature_cache_misses",
        /// Prompts whose beginning was found in a cache.
        PromptCacheHits = "prompt_cache_hits",
        /// Prompts whose beginning was not found in a cache.
        PromptCacheMisses = "prompt_cache_misses",
        /// Entries that a cache dropped to stay within its size.
        CacheEvictions = "cache_evictions",
    }
}

named_enum! {
    /// A level that rises and falls; the last and the largest value are kept.
    pub enum Gauge {
        /// Bytes that MLX holds in live arrays.
        MlxActiveBytes = "mlx_active_bytes",
        /// Most bytes that MLX held in live arrays, by MLX's own count.
        MlxPeakBytes = "mlx_peak_bytes",
        /// Bytes that MLX keeps for reuse.
        MlxCacheBytes = "mlx_cache_bytes",
        /// Bytes of keys and values kept for prompts.
        KvCacheBytes = "kv_cache_bytes",
        /// Bytes of preprocessed images kept.
        ImageCacheBytes = "image_cache_bytes",
        /// Bytes of vision features kept.
        FeatureCacheBytes = "feature_cache_bytes",
        /// Requests waiting.
        QueueDepth = "queue_depth",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        let mut seen = std::collections::HashSet::new();
        for &phase in Phase::ALL {
            assert_eq!(Phase::from_name(phase.name()), Some(phase));
            assert!(seen.insert(phase.name()), "{phase} twice");
        }
        for &counter in Counter::ALL {
            assert_eq!(Counter::from_name(counter.name()), Some(counter));
        }
        for &gauge in Gauge::ALL {
            assert_eq!(Gauge::from_name(gauge.name()), Some(gauge));
        }
        assert_eq!(Phase::from_name("Resize"), None);
    }

    #[test]
    fn serde_uses_the_same_name() {
        for &phase in Phase::ALL {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{phase}\""));
        }
    }
}
