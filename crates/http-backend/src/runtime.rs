//! The one thread that all requests of this process are made on, so that callers need no runtime.

use std::{sync::OnceLock, thread};

use llm_core::{Error, ErrorKind, Result};
use tokio::runtime::{Builder, Handle};

/// Returns the runtime, which starts with the first call.
///
/// # Errors
/// If the system gives no thread or no event queue.
pub(crate) fn runtime() -> Result<&'static Handle> {
    static RUNTIME: OnceLock<std::io::Result<Handle>> = OnceLock::new();
    let started = RUNTIME.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name("http-backend".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(handle)
    });
    started.as_ref().map_err(|error| {
        Error::new(ErrorKind::Internal, format!("cannot start the thread of requests: {error}"))
    })
}
