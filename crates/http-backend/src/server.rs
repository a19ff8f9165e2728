//! A server: where it is, who asks, and how long to try.

use std::{fmt, net::IpAddr, time::Duration};

use llm_core::{Error, ErrorKind, Result};
use reqwest::{
    Client, Proxy, Response, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    failure::Failure,
    retry::{self, MAX_WAIT},
};

/// How a server is reached.
#[derive(Clone)]
pub struct ServerOptions {
    /// Where the interface begins, such as `http://localhost:11434/v1`. Default: the provider's
    /// environment variable (`OPENAI_BASE_URL`, `ANTHROPIC_BASE_URL`), or the service itself.
    pub base_url: Option<String>,
    /// The key. Default: the provider's environment variable (`OPENAI_API_KEY`, `ANTHROPIC_API_KEY`),
    /// which is never sent to a `base_url` given here, since it may be a stranger's.
    pub api_key: Option<ApiKey>,
    /// Longest time to make a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Longest silence while an answer is waited for. Default 300 s: a model may be loaded first.
    pub read_timeout: Duration,
    /// Longest time for a whole answer, tries and waits included. Default: none.
    pub timeout: Option<Duration>,
    /// Most tries after the first. Default 2.
    pub max_retries: u32,
    /// About how long to wait before the second try; doubles with each. Default 0.5 s.
    pub retry_wait: Duration,
    /// A proxy for all requests. Default: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, which
    /// do not count for a server on this machine.
    pub proxy: Option<String>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            base_url: None,
            api_key: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(300),
            timeout: None,
            max_retries: 2,
            retry_wait: Duration::from_millis(500),
            proxy: None,
        }
    }
}

// Derived Debug would print the passwords of addresses.
impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<String>| url.as_ref().map(|url| without_password(url));
        f.debug_struct("ServerOptions")
            .field("base_url", &shown(&self.base_url))
            .field("api_key", &self.api_key)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("timeout", &self.timeout)
            .field("max_retries", &self.max_retries)
            .field("retry_wait", &self.retry_wait)
            .field("proxy", &shown(&self.proxy))
            .finish()
    }
}

/// A key that prints as `ApiKey(...)` and is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    fn header(&self, prefix: &str) -> Result<HeaderValue> {
        let text = format!("{prefix}{}", self.0.expose_secret());
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            // Neither the key nor the error, which may quote it.
            Error::new(ErrorKind::Authentication, "the key has characters that no key has")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl<T: Into<String>> From<T> for ApiKey {
    fn from(key: T) -> Self {
        Self(SecretString::from(key.into().trim().to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(...)")
    }
}

/// What a provider knows of its own service.
pub(crate) struct Service {
    pub(crate) base_url: &'static str,
    pub(crate) url_variable: &'static str,
    pub(crate) key_variable: &'static str,
    /// The header of the key, and what stands before it.
    pub(crate) key_header: (HeaderName, &'static str),
}

/// A server that is ready to be asked.
pub(crate) struct Server {
    client: Client,
    base: Url,
    /// The address without user and password, for messages.
    name: String,
    headers: HeaderMap,
    key: Option<ApiKey>,
    options: ServerOptions,
}

impl Server {
    /// Returns the server that `options` describe; `variable` reads the environment.
    ///
    /// # Errors
    /// If the address, the proxy or the key is none, or the service needs a key and has none.
    pub(crate) fn new(
        service: &Service,
        options: ServerOptions,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let chosen = options.base_url.clone();
        let base = chosen.clone().or_else(|| variable(service.url_variable));
        let base = parse_base(base.as_deref().unwrap_or(service.base_url))?;
        let from_environment = || variable(service.key_variable).map(ApiKey::from);
        let own = base.as_str() == parse_base(service.base_url)?.as_str();
        let key = options.api_key.clone();
        let key = key.or_else(|| (own || chosen.is_none()).then(from_environment).flatten());
        if own && key.is_none() {
            let variable = service.key_variable;
            return Err(Error::new(
                ErrorKind::Authentication,
                format!(
                    "{} needs a key: set api_key, or {variable} in the environment",
                    without_password(base.as_str())
                ),
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &key {
            let (name, prefix) = &service.key_header;
            headers.insert(name.clone(), key.header(prefix)?);
        }
        let client = client(&options, &base)?;
        let name = without_password(base.as_str()).trim_end_matches('/').to_owned();
        Ok(Self { client, base, name, headers, key, options })
    }

    /// Returns this server with a header more.
    ///
    /// # Errors
    /// If `value` cannot be in a header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value).map_err(|_| {
            invalid(format!("expected a value that can be in the header `{name}`, found `{value}`"))
        })?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// Returns the address for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the host, in lower case.
    #[cfg(feature = "openai")]
    pub(crate) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Returns the longest time for a whole answer.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// Returns `text` without the key and the password, which a server may have repeated.
    pub(crate) fn redact(&self, text: &str) -> String {
        let key = self.key.as_ref().map(|key| key.0.expose_secret());
        let secrets = key.into_iter().chain(self.base.password()).filter(|s| !s.is_empty());
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "..."))
    }

    /// Sends `body` to `path` below the address, with further tries where they may help, and returns the
    /// first answer that is a success.
    ///
    /// # Errors
    /// Of the last try.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Response> {
        let url = self.base.join(path).map_err(|e| invalid(format!("{path}: {e}")))?;
        let body = bytes::Bytes::from(body);
        let mut waits = retry::waits(self.options.retry_wait, self.options.max_retries);
        loop {
            let request = self.client.post(url.clone()).headers(self.headers.clone());
            let failure = match request.body(body.clone()).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => Failure::of_response(self, response).await,
                Err(error) => Failure::of_transport(self, error),
            };
            let wait = waits.next().filter(|_| failure.again);
            let Some(wait) = wait.map(|wait| failure.wait.unwrap_or_default().max(wait)) else {
                return Err(failure.error);
            };
            if wait > MAX_WAIT {
                return Err(failure.error);
            }
            tracing::debug!(server = self.name, error = %failure.error, ?wait, "trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("name", &self.name).finish_non_exhaustive()
    }
}

fn client(options: &ServerOptions, base: &Url) -> Result<Client> {
    // reqwest takes the cryptography of the process; if the program chose one, that stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(concat!("abstractllm/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        // A key must not follow to another place, and a POST would become a GET.
        .redirect(Policy::none());
    if let Some(proxy) = &options.proxy {
        // The address may hold a password, so it is not repeated.
        let proxy = Proxy::all(proxy).map_err(|_| {
            invalid("`proxy`: expected an address such as http://proxy.example:3128".to_owned())
        })?;
        client = client.no_proxy().proxy(proxy);
    } else if is_here(base) {
        client = client.no_proxy();
    }
    client.build().map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot set up HTTP").with_source(error.without_url())
    })
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns an address without user and password, or a word for what is no address.
fn without_password(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "(no address)".to_owned() };
    match (url.set_username(""), url.set_password(None)) {
        (Ok(()), Ok(())) => url.into(),
        _ => "(no address)".to_owned(),
    }
}

/// Reads an address, and makes it one that paths can be joined to.
fn parse_base(text: &str) -> Result<Url> {
    let expected = "expected an address such as http://localhost:11434/v1";
    let mut url = Url::parse(text.trim())
        .map_err(|error| invalid(format!("`base_url`: {expected}: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!(
            "`base_url`: {expected}, found the scheme `{}`",
            url.scheme()
        )));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(format!("`base_url`: {expected}, without `?` and `#`")));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use reqwest::header::AUTHORIZATION;

    use super::*;

    const KEY: &str = "sk-very-secret-0123456789";

    fn service() -> Service {
        Service {
            base_url: "https://api.example.com/v1",
            url_variable: "X_URL",
            key_variable: "X_KEY",
            key_header: (AUTHORIZATION, "Bearer "),
        }
    }

    fn server(base_url: Option<&str>, variables: &[(&str, &str)]) -> Result<Server> {
        let options =
            ServerOptions { base_url: base_url.map(str::to_owned), ..ServerOptions::default() };
        Server::new(&service(), options, |name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_key_of_the_environment_goes_to_its_own_service_only() {
        let has_key = |base_url, variables: &[(&str, &str)]| {
            server(base_url, variables).unwrap().headers.contains_key(AUTHORIZATION)
        };
        assert!(has_key(None, &[("X_KEY", KEY)]));
        assert!(has_key(Some("https://api.example.com/v1/"), &[("X_KEY", KEY)]));
        assert!(has_key(None, &[("X_KEY", KEY), ("X_URL", "http://localhost:1/v1")]));
        assert!(!has_key(Some("http://localhost:1/v1"), &[("X_KEY", KEY)]));
        assert!(!has_key(None, &[("X_URL", "http://localhost:1/v1"), ("X_KEY", " ")]));
        let error = server(None, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication);
        assert!(error.to_string().contains("X_KEY"), "{error}");
    }

    #[test]
    fn secrets_are_nowhere_to_be_read() {
        let base = "http://user:hunter2-hunter2@localhost:1/v1";
        let options = ServerOptions {
            base_url: Some(base.into()),
            api_key: Some(KEY.into()),
            proxy: Some("http://user:hunter2-hunter2@localhost:2".into()),
            ..ServerOptions::default()
        };
        let server = Server::new(&service(), options, |_| None).unwrap();
        assert_eq!(server.name(), "http://localhost:1/v1");
        assert_eq!(server.redact(&format!("wrong key {KEY}")), "wrong key ...");
        for text in
            [format!("{server:?}"), format!("{:#?}", server.options), format!("{:?}", server.key)]
        {
            assert!(!text.contains(KEY) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn addresses_are_checked() {
        for (url, says) in [
            ("localhost:1/v1", "found the scheme `localhost`"),
            ("ftp://a/v1", "found the scheme `ftp`"),
            ("http://", "empty host"),
            ("http://a/v1?key=x", "without `?` and `#`"),
        ] {
            let error = parse_base(url).unwrap_err();
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
        let url = parse_base("http://a/v1").unwrap();
        assert_eq!(url.join("chat/completions").unwrap().as_str(), "http://a/v1/chat/completions");
    }
}
