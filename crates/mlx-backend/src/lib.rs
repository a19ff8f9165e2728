//! Runs vision-language models on MLX behind the llm-core provider trait
