//! From what a person writes to the parts of a message: files, globs, `file:`, `http:`, `https:` and
//! `data:` addresses, base64, and `@file` in the middle of a prompt.
//!
//! ```no_run
//! use llm_core::{Message, Request};
//! use media_loader::Loader;
//!
//! let loader = Loader::default();
//! let mut parts = loader.load("photos/*.jpg")?;
//! parts.extend(loader.prompt("Which of them show what is in @wanted.csv?")?);
//! let request = Request::new([Message::user(parts)]);
//! # Ok::<(), llm_core::Error>(())
//! ```
//!
//! An image stays a path where it was one, and becomes bytes otherwise; it is known by its first bytes, not
//! by its name. Everything else must be text in UTF-8 and is put into the message with its name.
//!
//! The calls block; asynchronous programs give them a thread.
//!
//! # Addresses
//!
//! Fetching on behalf of others is how servers are made to talk to the networks behind them. So an address
//! is fetched only if **all** that its name resolves to is public; the check is made on the addresses that
//! are connected to, for the first request and for each redirect. Size, time and the number of redirects have
//! limits, the content type must be one of an image or a text, and no proxy of the environment is used, since
//! it would resolve names where nothing can be checked.
//!
//! # Features
//!
//! - `http` (default): fetches addresses; without it they are an error.
#![forbid(unsafe_code)]

mod address;
#[cfg(feature = "http")]
mod fetch;
mod kind;
mod prompt;
mod source;

use std::{fmt, time::Duration};

pub use self::address::is_public;

/// Finds what a text refers to.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    options: LoaderOptions,
}

/// What a [`Loader`] may do.
#[derive(Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Whether files of this machine are read; switch it off for texts of strangers. Default true.
    pub files: bool,
    /// Whether addresses are fetched. Default true.
    pub addresses: bool,
    /// Whether addresses may lead to this machine or to its private networks. Default false.
    pub private_addresses: bool,
    /// Largest image, in bytes. Default 32 MiB.
    pub max_image_bytes: u64,
    /// Largest text, in bytes. Default 1 MiB, which is more than most contexts hold.
    pub max_text_bytes: u64,
    /// Most files that a glob may match. Default 256.
    pub max_files: usize,
    /// Longest time for an address, redirects included. Default 30 s.
    pub timeout: Duration,
    /// Most redirects. Default 5.
    pub max_redirects: u32,
    /// A proxy for addresses. It resolves names itself, so it must keep to public ones itself. Default none.
    pub proxy: Option<String>,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            files: true,
            addresses: true,
            private_addresses: false,
            max_image_bytes: 32 << 20,
            max_text_bytes: 1 << 20,
            max_files: 256,
            timeout: Duration::from_secs(30),
            max_redirects: 5,
            proxy: None,
        }
    }
}

// Derived Debug would print the password of a proxy.
impl fmt::Debug for LoaderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoaderOptions")
            .field("files", &self.files)
            .field("addresses", &self.addresses)
            .field("private_addresses", &self.private_addresses)
            .field("max_image_bytes", &self.max_image_bytes)
            .field("max_text_bytes", &self.max_text_bytes)
            .field("max_files", &self.max_files)
            .field("timeout", &self.timeout)
            .field("max_redirects", &self.max_redirects)
            .field("proxy", &self.proxy.as_ref().map(|_| "..."))
            .finish()
    }
}

impl Loader {
    /// Returns a loader that keeps to `options`.
    #[must_use]
    pub fn new(options: LoaderOptions) -> Self {
        Self { options }
    }
}
