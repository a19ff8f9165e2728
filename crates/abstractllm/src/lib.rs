//! Vision-language models for Rust programs: the facade over the abstractllm crates
