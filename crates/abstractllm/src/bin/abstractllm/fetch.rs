//! Images that clients of the server name by address.

use std::time::Duration;

use abstractllm::{
    Error, ErrorKind, Image, Part, Result,
    media::{Loader, LoaderOptions},
};
use async_trait::async_trait;
use llm_server::ImageSource;
use tokio::task::spawn_blocking;

/// Fetches what is public; what this machine and its networks hold only if that was allowed.
#[derive(Debug)]
pub(crate) struct Fetched(Loader);

impl Fetched {
    /// Images of at most `max_bytes` each, that come within `timeout`.
    pub(crate) fn new(max_bytes: u64, timeout: Duration, private_addresses: bool) -> Self {
        Self(Loader::new(LoaderOptions {
            files: false,
            private_addresses,
            max_image_bytes: max_bytes,
            timeout,
            ..LoaderOptions::default()
        }))
    }
}

#[async_trait]
impl ImageSource for Fetched {
    async fn fetch(&self, url: &str) -> Result<Image> {
        let (loader, url) = (self.0.clone(), url.to_owned());
        let loaded = spawn_blocking(move || loader.load(&url)).await.map_err(|e| {
            Error::new(ErrorKind::Internal, "the thread that fetches an image ended").with_source(e)
        })?;
        match loaded?.pop() {
            Some(Part::Image(image)) => Ok(image),
            _ => Err(Error::new(ErrorKind::Image, "expected an image, found a text")),
        }
    }
}
