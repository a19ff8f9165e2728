//! Calls that take seconds, for programs that must not stand still meanwhile.

use std::thread;

use futures_channel::oneshot;
use llm_core::{Error, ErrorKind, Provider, Result};

use crate::{Config, create_llm};

/// As [`create_llm`], on a thread of its own, so that async code can wait for it with any runtime.
///
/// A load that has begun goes on to its end if this is dropped, and what it made is dropped then.
///
/// # Errors
/// As [`create_llm`].
pub async fn create_llm_async(
    provider: impl Into<String>,
    config: impl Into<Config>,
) -> Result<Box<dyn Provider>> {
    let (provider, config) = (provider.into(), config.into());
    on_a_thread(move || create_llm(&provider, config)).await
}

/// As [`load`](crate::load), on a thread of its own; see [`create_llm_async`].
///
/// # Errors
/// As [`load`](crate::load).
#[cfg(feature = "mlx")]
pub async fn load_async(
    model: impl Into<String>,
    options: mlx_backend::MlxOptions,
) -> Result<mlx_backend::MlxProvider> {
    let model = model.into();
    on_a_thread(move || crate::load(&model, options)).await
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, wait) = oneshot::channel();
    let run = move || {
        // Nobody waits any more if this fails.
        let _ = done.send(work());
    };
    thread::Builder::new().name("abstractllm-load".to_owned()).spawn(run).map_err(|e| {
        Error::new(ErrorKind::Internal, "no thread could be started").with_source(e)
    })?;
    wait.await.map_err(|_| Error::new(ErrorKind::Internal, "loading ended in a panic"))?
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn errors_and_panics_arrive() {
        let unknown = block_on(create_llm_async("nobody", Config::default())).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::InvalidRequest);
        let died = block_on(on_a_thread::<()>(|| panic!("as a test wants it"))).unwrap_err();
        assert_eq!(died.kind(), ErrorKind::Internal);
        assert_eq!(block_on(on_a_thread(|| Ok(7))).unwrap(), 7);
    }
}
