//! A provider by its name.

use llm_core::{Provider, Result};

use crate::{Config, registry};

/// Returns the provider `provider`, set up as `config` says; loading a model blocks until it is read.
///
/// ```no_run
/// let llm = abstractllm::create_llm("mlx", [("model", "tiny-vl"), ("max_tokens", "64")])?;
/// # Ok::<(), abstractllm::Error>(())
/// ```
///
/// A setting comes from the first of these that has it; a request has the last word on how it is
/// answered:
///
/// 1. `config`
/// 2. the environment, for this provider: `ABSTRACTLLM_MLX_MODEL`
/// 3. the environment, for all: `ABSTRACTLLM_TEMPERATURE`
/// 4. the file that `ABSTRACTLLM_CONFIG` names, in the table of this provider
/// 5. that file, before all tables
///
/// The file is TOML, or JSON of the same form:
///
/// ```toml
/// temperature = 0.2
///
/// [mlx]
/// model = "tiny-vl"
///
/// [openai]
/// model = "gpt-5-mini"
/// ```
///
/// What is for all providers can be `model` and the fields of [`GenerateParams`](crate::GenerateParams).
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) for an unknown provider or key, or a
/// value out of its range, each named with what was expected; otherwise what the provider says of its
/// model.
pub fn create_llm(provider: &str, config: impl Into<Config>) -> Result<Box<dyn Provider>> {
    let construct = registry::find(provider)?;
    construct(config.into().with_sources(provider)?)
}

/// Loads `model` with typed options: `tiny-vl` for the embedded model, a folder, a GGUF file, or
/// `organisation/model` in the local Hugging Face cache or on the hub.
///
/// A folder named `tiny-vl` in the working directory is written `./tiny-vl`.
///
/// # Errors
/// If there is no such model, or it cannot be read or run.
#[cfg(feature = "mlx")]
pub fn load(model: &str, options: mlx_backend::MlxOptions) -> Result<mlx_backend::MlxProvider> {
    #[cfg(feature = "tiny-vl")]
    if model == crate::embedded::TINY_VL {
        let folder = crate::embedded::tiny_vl()?;
        return Ok(mlx_backend::MlxProvider::load(&folder.to_string_lossy(), options)?);
    }
    Ok(mlx_backend::MlxProvider::load(model, options)?)
}
