//! How long to wait before another try.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBuilder};
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Longest wait; a server that asks for more gets no other try, and the caller hears of the time.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(60);

/// Returns the waits before the second, third and further tries: each about twice the one before,
/// and up to as much again by chance, so that many callers do not come back at once.
pub(crate) fn waits(first: Duration, tries: u32) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(MAX_WAIT / 2)
        .with_max_times(tries as usize)
        .with_jitter()
        .build()
}

/// Returns how long the server asks to wait: by `retry-after-ms`, by `retry-after` in seconds or as a
/// date, or until the limit of a rate that is used up is reset.
pub(crate) fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let milliseconds = || text("retry-after-ms")?.parse().ok().and_then(millis);
    let after = || {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        seconds(text).or_else(|| until(httpdate::parse_http_date(text).ok()?))
    };
    milliseconds().or_else(after).or_else(|| {
        // What is left tells which of the limits was reached.
        let resets = ["requests", "tokens", "input-tokens", "output-tokens"].map(|what| {
            let openai = reset(
                text(&format!("x-ratelimit-remaining-{what}")),
                text(&format!("x-ratelimit-reset-{what}")),
            );
            let anthropic = reset(
                text(&format!("anthropic-ratelimit-{what}-remaining")),
                text(&format!("anthropic-ratelimit-{what}-reset")),
            );
            openai.max(anthropic)
        });
        resets.into_iter().flatten().max()
    })
}

fn reset(remaining: Option<&str>, at: Option<&str>) -> Option<Duration> {
    (remaining? == "0").then_some(())?;
    let at = at?;
    // OpenAI writes a span such as `6m0.5s`, Anthropic a time as in RFC 3339.
    seconds(at).or_else(|| span(at)).or_else(|| until(at.parse::<jiff::Timestamp>().ok()?.into()))
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

fn millis(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number / 1000.0).ok()
}

fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let letters = rest[digits..].find(|c: char| !c.is_ascii_alphabetic());
        let end = letters.map_or(rest.len(), |letters| digits + letters);
        let unit = match &rest[digits..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

fn until(time: SystemTime) -> Option<Duration> {
    Some(time.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_the_server_asks_for_is_read() {
        for (pairs, expected) in [
            (&[("retry-after", "2")][..], Some(2.0)),
            (&[("retry-after", "0.5")], Some(0.5)),
            (&[("retry-after-ms", "250"), ("retry-after", "9")], Some(0.25)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Some(0.0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "1m1.5s"),
                    ("x-ratelimit-remaining-tokens", "10"),
                    ("x-ratelimit-reset-tokens", "9h"),
                ],
                Some(61.5),
            ),
            (
                &[
                    ("anthropic-ratelimit-tokens-remaining", "0"),
                    ("anthropic-ratelimit-tokens-reset", "2020-01-01T00:00:00Z"),
                ],
                Some(0.0),
            ),
            (&[], None),
        ] {
            let found = asked_for(&headers(pairs)).map(|wait| wait.as_secs_f64());
            assert_eq!(found, expected, "{pairs:?}");
        }
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        let wait = asked_for(&headers(&[("retry-after", &soon)])).unwrap().as_secs();
        assert!((25..=30).contains(&wait), "{wait}");
    }

    #[test]
    fn spans_are_read() {
        for (text, expected) in [("20ms", 0.02), ("6m0s", 360.0), ("1h2m3.5s", 3723.5)] {
            assert_eq!(span(text).unwrap().as_secs_f64(), expected, "{text}");
        }
        for text in ["", "s", "1", "1x", "1.2.3s"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn waits_grow_and_differ() {
        let first = Duration::from_millis(100);
        let all: Vec<Vec<Duration>> = (0..8).map(|_| waits(first, 3).collect()).collect();
        for waits in &all {
            assert_eq!(waits.len(), 3);
            for (wait, n) in waits.iter().zip(0..) {
                let base = first * 2_u32.pow(n);
                assert!((base..=base * 2).contains(wait), "{wait:?}");
            }
        }
        assert!(all.windows(2).any(|pair| pair[0] != pair[1]), "no jitter: {all:?}");
    }
}
