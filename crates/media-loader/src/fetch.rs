//! What an address leads to.

use std::time::Duration;

use llm_core::{Error, ErrorKind, Image, Part, Result};
use ureq::{
    Agent, Proxy,
    config::Config,
    http::Uri,
    tls::{RootCerts, TlsConfig},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

use crate::{
    Loader, LoaderOptions, is_public,
    kind::{Kind, text_part},
    source::{check_length, shown},
};

impl Loader {
    /// Fetches an address.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if it is not allowed or cannot be fetched, is too large, or is neither an image
    /// nor a text.
    pub(crate) fn fetch(&self, url: &str) -> Result<Part> {
        let place = shown(url);
        let fail = |what: String| Error::new(ErrorKind::Image, format!("{place}: {what}"));
        if !self.options.addresses {
            return Err(fail("addresses are not allowed here".to_owned()));
        }
        let agent = agent(&self.options).map_err(&fail)?;
        let mut response = agent.get(url).call().map_err(|e| fail(reason(&e, &self.options)))?;
        let declared = response.headers().get("content-type").and_then(|v| v.to_str().ok());
        let declared = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let declared = declared.to_ascii_lowercase();
        let kind = declared_kind(&declared).ok_or_else(|| {
            fail(format!("expected the content type of an image or a text, found `{declared}`"))
        })?;
        let most = self.most(kind);
        // One byte more than allowed tells that there is more.
        let body = response.body_mut().with_config().limit(most + 1).read_to_vec();
        let bytes = match body {
            Err(ureq::Error::BodyExceedsLimit(_)) => {
                return Err(fail(format!("expected at most {most} bytes, found more")));
            }
            body => body.map_err(|e| fail(reason(&e, &self.options)))?,
        };
        check_length(&place, bytes.len() as u64, most)?;
        match (kind, Kind::of(&bytes)) {
            (Kind::Image, Kind::Image) => Ok(Image::encoded(bytes).into()),
            (Kind::Text, Kind::Text) => text_part(&place, bytes),
            _ => Err(fail(format!("the content is not of the type `{declared}`"))),
        }
    }
}

/// Returns what a content type says of a body.
fn declared_kind(content_type: &str) -> Option<Kind> {
    match content_type {
        "image/svg+xml" => None,
        "application/json" | "application/x-ndjson" | "application/yaml" | "application/toml" => {
            Some(Kind::Text)
        }
        other if other.starts_with("image/") => Some(Kind::Image),
        other if other.starts_with("text/") => Some(Kind::Text),
        _ => None,
    }
}

fn agent(options: &LoaderOptions) -> Result<Agent, String> {
    let proxy = match &options.proxy {
        Some(proxy) => Some(Proxy::new(proxy).map_err(|_| "the proxy has no good address")?),
        None => None,
    };
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Config::builder()
        .proxy(proxy)
        .tls_config(tls)
        .max_redirects(options.max_redirects)
        .max_redirects_will_error(true)
        .timeout_global(Some(options.timeout.max(Duration::from_millis(1))))
        .user_agent(concat!("abstractllm/", env!("CARGO_PKG_VERSION")))
        .build();
    let resolver = Checked { private: options.private_addresses || options.proxy.is_some() };
    Ok(Agent::with_parts(config, DefaultConnector::default(), resolver))
}

/// Resolves names to the addresses that are connected to, of each request and each redirect.
#[derive(Debug)]
struct Checked {
    /// Whether all addresses will do.
    private: bool,
}

/// Says why an address was not connected to; travels inside of the error of the HTTP library.
#[derive(Debug)]
struct NotPublic;

impl std::fmt::Display for NotPublic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it leads to this machine or to a private network, which is not allowed")
    }
}

impl std::error::Error for NotPublic {}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        match self.private || found.iter().all(|address| is_public(address.ip())) {
            true => Ok(found),
            false => Err(ureq::Error::Io(std::io::Error::other(NotPublic))),
        }
    }
}

/// Says what went wrong, without the address, whose parameters may be secret.
fn reason(error: &ureq::Error, options: &LoaderOptions) -> String {
    match error {
        ureq::Error::StatusCode(status) => format!("the server answered {status}"),
        ureq::Error::Timeout(_) => format!("nothing within {} s", options.timeout.as_secs_f64()),
        ureq::Error::TooManyRedirects => format!("more than {} redirects", options.max_redirects),
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::Arc,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    /// Takes the first name that it is asked for as public, as a server of a stranger would be, though
    /// it is on this machine; everything after that is checked.
    #[derive(Debug)]
    struct FirstIsPublic(Arc<AtomicUsize>);

    impl Resolver for FirstIsPublic {
        fn resolve(
            &self,
            uri: &Uri,
            config: &Config,
            timeout: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
            Checked { private: first }.resolve(uri, config, timeout)
        }
    }

    #[test]
    fn a_redirect_is_checked_like_the_first_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, location) = (requests.clone(), format!("{url}/inside.png"));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                count.fetch_add(1, Ordering::SeqCst);
                let head = "HTTP/1.1 302 X\r\nconnection: close\r\ncontent-length: 0";
                let _ = write!(connection, "{head}\r\nlocation: {location}\r\n\r\n");
            }
        });
        let asked = Arc::new(AtomicUsize::new(0));
        let config = Config::builder().proxy(None).build();
        let resolver = FirstIsPublic(asked.clone());
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        let error = agent.get(&format!("{url}/outside.png")).call().unwrap_err();
        assert!(error.to_string().contains("private network"), "{error}");
        assert_eq!((asked.load(Ordering::SeqCst), requests.load(Ordering::SeqCst)), (2, 1));
    }
}
