//! HTTP as the hub needs it: access token, redirects, time limits, another try.

use std::{env, fmt, fs, path::PathBuf, thread, time::Duration};

use ureq::{
    Agent, Body,
    http::{HeaderMap, Response, StatusCode, Uri, header},
    tls::{RootCerts, TlsConfig},
};

use crate::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
const USER_AGENT: &str = concat!("abstractllm/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may be silent. There is no limit on a whole file: lines differ too much.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;
/// Tries in a row that bring nothing.
const MAX_TRIES: u32 = 5;
/// Longest wait that a server may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Talks to one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    /// Wait after the first failure; it doubles with each.
    first_wait: Duration,
}

/// Why one try brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try may do better.
    Passing { reason: String, wait: Option<Duration> },
    /// Another try would bring the same.
    Final(Error),
}

impl Failure {
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::Passing { reason: reason.into(), wait: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Client {
    /// Returns a client for the hub and with the token that the environment names.
    ///
    /// # Errors
    /// [`Error::Download`] if `HF_ENDPOINT` is not a URL, [`Error::Denied`] if the token cannot be
    /// one.
    pub(super) fn from_env() -> Result<Self> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let config = Agent::config_builder().tls_config(
            // The system's certificates, since a company's proxy may have its own.
            TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build(),
        );
        Self::new(&endpoint, Token::from_env(), config, Duration::from_millis(500))
    }

    /// Returns a client for tests: it uses no proxy, and waits for milliseconds only.
    #[cfg(test)]
    pub(super) fn for_test(endpoint: &str, token: Option<&str>) -> Result<Self> {
        let token = token.map(|text| Token(text.to_owned()));
        Self::new(endpoint, token, Agent::config_builder().proxy(None), Duration::from_millis(1))
    }

    fn new(
        endpoint: &str,
        token: Option<Token>,
        config: ureq::config::ConfigBuilder<ureq::typestate::AgentScope>,
        first_wait: Duration,
    ) -> Result<Self> {
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                // Errors show URLs; a password must not be in one.
                && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
                && uri.query().is_none()
        });
        if uri.is_none() {
            return Err(Error::Download {
                url: "HF_ENDPOINT".to_owned(),
                reason: "expected `http(s)://host`, without a password, found something else"
                    .to_owned(),
            });
        }
        if token.as_ref().is_some_and(|t| !t.0.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::Denied {
                url: endpoint.to_owned(),
                reason:
                    "the access token (HF_TOKEN or its file) holds characters that no token has"
                        .to_owned(),
            });
        }
        let agent = config
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            // Followed below, where the token can be dropped and the target checked.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .build()
            .new_agent();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { agent, endpoint, token, first_wait })
    }

    /// Returns the URL of the list of files of a revision, with their checksums.
    pub(super) fn listing_url(&self, repo: &str, revision: &str) -> String {
        format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint)
    }

    /// Returns the URL of a file.
    pub(super) fn file_url(&self, repo: &str, commit: &str, name: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, percent_encode(name))
    }

    /// Asks for `url` from byte `from` on, once, and returns a successful response.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, Failure> {
        let origin = url.parse::<Uri>().map_err(|e| Failure::passing(e.to_string()))?;
        let mut target = origin.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(target.clone());
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            // Another host has no business with the token, whoever redirects there.
            if let Some(Token(token)) =
                self.token.as_ref().filter(|_| same_server(&origin, &target))
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| Failure::passing(e.to_string()))?;
            if !response.status().is_redirection() {
                return self.check(url, response);
            }
            target =
                redirect(&target, response.headers()).map_err(|reason| download(url, reason))?;
        }
        Err(download(url, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    /// Calls `attempt` until it succeeds or fails for good; `attempt` says with its flag whether it
    /// brought anything, and only tries in a row that did not are counted.
    pub(super) fn persist<T>(
        &self,
        url: &str,
        mut attempt: impl FnMut(&mut bool) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            let mut advanced = false;
            let (reason, wait) = match attempt(&mut advanced) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, wait }) => (reason, wait),
            };
            failures = if advanced { 1 } else { failures + 1 };
            if failures == MAX_TRIES {
                return Err(download(url, format!("{reason} ({MAX_TRIES} tries)")));
            }
            tracing::warn!(url, reason, failures, "download failed, trying again");
            let wait = wait.unwrap_or_else(|| self.first_wait * 2_u32.pow(failures - 1));
            thread::sleep(wait.min(MAX_WAIT));
        }
    }

    /// Sorts answers into successes, passing failures and final ones.
    fn check(&self, url: &str, response: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = response.status();
        let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let reason = match text("x-error-message") {
            Some(message) => format!("{status}: {}", printable(message)),
            None => status.to_string(),
        };
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let hint = match (&self.token, text("x-error-code")) {
                    (None, _) => {
                        "there is no such model, or it is private or gated: set HF_TOKEN to an \
                         access token of an account that may read it"
                    }
                    (Some(_), Some("GatedRepo")) => {
                        "the model is gated: accept its terms on its page with the account of the \
                         access token"
                    }
                    (Some(_), _) => "the access token (HF_TOKEN or its file) may not read it",
                };
                let reason = format!("{reason}; {hint}");
                Err(Failure::Final(Error::Denied { url: url.to_owned(), reason }))
            }
            StatusCode::NOT_FOUND => Err(Failure::Final(Error::NotFound {
                name: url.to_owned(),
                reason: format!("the hub answered {reason}"),
            })),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                let wait = text("retry-after").and_then(|v| v.parse().ok());
                Err(Failure::Passing { reason, wait: wait.map(Duration::from_secs) })
            }
            _ if status.is_server_error() => Err(Failure::passing(reason)),
            _ => Err(download(url, reason).into()),
        }
    }
}

/// An access token, which no message and no log may show.
struct Token(String);

impl Token {
    fn from_env() -> Option<Self> {
        let token = variable("HF_TOKEN").or_else(|| {
            let home = || variable("HF_HOME").map(PathBuf::from);
            let path = variable("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| Some(home()?.join("token")))
                .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/token")))?;
            fs::read_to_string(path).ok()
        })?;
        let token = token.trim();
        (!token.is_empty()).then(|| Self(token.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

pub(super) fn download(url: &str, reason: impl Into<String>) -> Error {
    Error::Download { url: url.to_owned(), reason: reason.into() }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn same_server(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

/// Returns where `headers` redirect to from `base`.
fn redirect(base: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or("redirected without a location")?;
    let bad = || "redirected to what is not a URL".to_owned();
    let (scheme, authority) = base.scheme_str().zip(base.authority()).ok_or_else(bad)?;
    let target = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let target: Uri = target.parse().map_err(|_| bad())?;
    match target.scheme_str() {
        Some("https") => Ok(target),
        Some("http") if scheme == "http" => Ok(target),
        Some("http") => Err("redirected from https to http".to_owned()),
        _ => Err(bad()),
    }
}

/// Encodes what is not plain in a path of a URL.
fn percent_encode(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A server's message, short and on one line.
fn printable(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        let client = Client::for_test("http://localhost", Some("hf_secret")).unwrap();
        assert!(!format!("{client:?}").contains("secret"));
        let error = Client::for_test("http://localhost", Some("hf_sec\nret")).unwrap_err();
        assert!(!format!("{error:?}{error}").contains("sec"), "{error:?}");
    }

    #[test]
    fn an_endpoint_is_a_plain_url() {
        for bad in
            ["", "huggingface.co", "ftp://x", "https://", "https://me:secret@x", "http://x?y"]
        {
            let error = Client::for_test(bad, None).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let client = Client::for_test("https://mirror/hf/", None).unwrap();
        let url = client.file_url("o/m", "abc", "a b#.json");
        assert_eq!(url, "https://mirror/hf/o/m/resolve/abc/a%20b%23.json");
    }

    #[test]
    fn redirects_stay_on_the_web_and_encrypted() {
        let to = |base: &str, location: &str| {
            let headers = [(header::LOCATION, location.parse().unwrap())];
            redirect(&base.parse().unwrap(), &HeaderMap::from_iter(headers))
        };
        assert_eq!(to("https://a/b", "/c?d").unwrap(), "https://a/c?d");
        assert_eq!(to("https://a/b", "//e/f").unwrap(), "https://e/f");
        assert_eq!(to("http://a/b", "https://e/f").unwrap(), "https://e/f");
        for (base, location) in
            [("https://a/b", "http://a/c"), ("https://a/b", "file:///c"), ("https://a/b", "c")]
        {
            assert!(to(base, location).is_err(), "{location}");
        }
        assert!(redirect(&"https://a/b".parse().unwrap(), &HeaderMap::new()).is_err());
    }
}
