//! Provider traits, messages, parameters and errors for language and vision-language models
