//! Our side of the comparison: one process that loads, answers and says how long it took. The other
//! side, `peer.py`, prints the same lines.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use abstractllm::{
    Event, GenerateParams, Image, Request, blocking,
    mlx::{CacheLimits, Caches, MlxOptions, MlxProvider, device_info},
    perf::{Counter, Gauge, GenerationTrace, PhaseEvent, Recorder},
};
use serde_json::json;

use crate::Result;

/// What both sides are asked.
pub(crate) const QUESTION: &str = "Describe the image.";

/// Milliseconds of each phase since they were taken last.
#[derive(Debug, Default)]
struct Phases(Mutex<BTreeMap<String, f64>>);

impl Recorder for Phases {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        let took = event.end.saturating_duration_since(event.start).as_secs_f64() * 1e3;
        if let Ok(mut phases) = self.0.lock() {
            *phases.entry(format!("{:?}", event.phase)).or_default() += took;
        }
    }

    fn count(&self, _counter: Counter, _amount: u64) {}

    fn gauge(&self, _gauge: Gauge, _value: u64) {}

    fn generation(&self, _trace: &GenerationTrace) {}
}

/// Loads the checkpoint in `folder` and asks `requests` times about `image`, for `tokens` tokens.
pub(crate) fn answer(folder: &str, image: &str, tokens: &str, requests: &str) -> Result<()> {
    let started = Instant::now();
    let tokens: u32 = tokens.parse()?;
    let requests: usize = requests.parse()?;
    // A repeated request must do its work again, as it does on the other side.
    let caches = Caches::new(CacheLimits::none());
    let phases = Arc::new(Phases::default());
    let recorder = phases.clone();
    let options = MlxOptions { caches, recorder, ..MlxOptions::default() };
    let model = MlxProvider::load(folder, options)?;
    let kind = device_info()?.kind;
    say(
        &json!({"name": "abstractllm", "device": kind, "load_s": started.elapsed().as_secs_f64()}),
    )?;
    for _ in 0..requests {
        let mut request = Request::images([Image::Path(image.into())], QUESTION);
        request.params = GenerateParams {
            max_tokens: Some(tokens),
            temperature: Some(0.0),
            ..GenerateParams::default()
        };
        let asked = Instant::now();
        let (mut first, mut text) = (None, String::new());
        let mut end = None;
        for event in blocking::stream(&model, request)? {
            match event? {
                Event::Text(piece) => {
                    if first.is_none() {
                        first = Some(asked.elapsed());
                        say(&json!({"first": true}))?;
                    }
                    text.push_str(&piece);
                }
                Event::End(completion) => end = Some(completion),
                _ => {}
            }
        }
        let end = end.ok_or("an answer without an end")?;
        let count = end.usage.completion_tokens;
        let decode = end.decode_time.unwrap_or_default();
        say(&json!({
            "prompt_tokens": end.usage.prompt_tokens,
            "tokens": count,
            "first_s": end.time_to_first_token.or(first).as_ref().map(Duration::as_secs_f64),
            "decode_tokens_per_s": (count.saturating_sub(1)) as f64 / decode.as_secs_f64(),
            "peak_bytes": device_info()?.peak_bytes,
            "resident_bytes": benches::resident_bytes("VmHWM"),
            "text": text,
            "phases_ms": phases.0.lock().map(|mut phases| std::mem::take(&mut *phases)).unwrap_or_default(),
        }))?;
    }
    Ok(())
}

/// Prints a line for the process that started this one.
pub(crate) fn say(line: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
