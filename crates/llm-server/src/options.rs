//! How a server is set up.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use llm_core::{Error, ErrorKind, Image, Result};
use perf_monitor::PerformanceMonitor;
use subtle::ConstantTimeEq;

/// How a [`Server`](crate::Server) is set up.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// What clients may send as `Authorization: Bearer KEY`; without any, everyone is let in.
    pub api_keys: Vec<ApiKey>,
    /// The names of this host that requests may ask for, without a port; without any, all are good.
    ///
    /// A server on loopback without a key should name `localhost` and `127.0.0.1`: a web page can
    /// make its own name point there, and would then be read as the server's own page.
    pub allowed_hosts: Vec<String>,
    /// Largest body of a request, in bytes, and most bytes of all images that one names by address.
    /// Default 32 MiB.
    pub max_body_bytes: usize,
    /// Longest time that a body may take to arrive, and after it the images. Default 30 s.
    pub body_timeout: Duration,
    /// Most answers in the making, at least 1. Default 8.
    pub max_running: usize,
    /// Most requests that wait for their turn; one more is refused with 429. Default 64.
    pub max_waiting: usize,
    /// Longest time that a request waits for its turn before it is refused with 503. Default 60 s.
    pub max_wait: Duration,
    /// Most connections that are open at once; more wait to be accepted. Default 256.
    pub max_connections: usize,
    /// How long answers in the making may take to end after the server was told to stop.
    /// Default 30 s.
    pub shutdown_grace: Duration,
    /// What is done about fields of a request that mean nothing here.
    pub unknown_fields: UnknownFields,
    /// Where images with an address come from.
    pub images: Arc<dyn ImageSource>,
    /// Measures every request as the operation `chat`; its report is a part of `/metrics`.
    pub monitor: Option<PerformanceMonitor>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            max_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            max_running: 8,
            max_waiting: 64,
            max_wait: Duration::from_secs(60),
            max_connections: 256,
            shutdown_grace: Duration::from_secs(30),
            unknown_fields: UnknownFields::default(),
            images: Arc::new(NoImageSource),
            monitor: None,
        }
    }
}

/// What is done about fields of a request that mean nothing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// The request is refused with the nearest name that is known.
    #[default]
    Refuse,
    /// They count for nothing, and the header `x-ignored-fields` of the answer lists them.
    Ignore,
}

/// A secret that lets a client in; it is never printed.
#[derive(Clone)]
pub struct ApiKey(Box<str>);

impl ApiKey {
    /// Returns the key `text`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if it is empty or has characters that no header can carry.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let fits = |b: u8| b.is_ascii_graphic();
        if text.is_empty() || !text.bytes().all(fits) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "an API key must be of printable ASCII characters without spaces, and not empty",
            ));
        }
        Ok(Self(text.into()))
    }

    /// Whether `other` is this key; takes as long for a nearly right one as for a wrong one of the
    /// same length.
    pub(crate) fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Where images with an address come from; data URLs are read without it.
#[async_trait]
pub trait ImageSource: Send + Sync + fmt::Debug {
    /// Returns the image at `url`, which begins with `http://` or `https://` and else is whatever a client
    /// wrote: it may lead anywhere that this machine reaches.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if there is none, or if it may not be fetched.
    async fn fetch(&self, url: &str) -> Result<Image>;
}

/// Fetches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoImageSource;

#[async_trait]
impl ImageSource for NoImageSource {
    async fn fetch(&self, _url: &str) -> Result<Image> {
        let message = "this server fetches no addresses; send the image as a data URL \
                       `data:image/...;base64,...`";
        Err(Error::new(ErrorKind::Image, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole_and_never_shown() {
        let key = ApiKey::new("sk-123").unwrap();
        assert!(key.is(b"sk-123"));
        for wrong in ["", "sk-12", "sk-1234", "sk-124"] {
            assert!(!key.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(
            !format!("{:?}", ServerOptions { api_keys: vec![key], ..Default::default() })
                .contains("123")
        );
        assert!(ApiKey::new("").is_err() && ApiKey::new("a b").is_err());
    }
}
