//! Our side: a process that has a conversation of two questions about one image. The other side,
//! `peer.py`, prints the same lines.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use abstractllm::{
    GenerateParams, Image, Message, Part, Request, Role, blocking,
    mlx::{CacheLimits, Caches, MlxOptions, MlxProvider},
};
use serde_json::{Value, json};

use crate::Result;

const QUESTIONS: [&str; 2] = ["Describe this image.", "What color is the circle?"];
const TOKENS: u32 = 16;

/// Asks the checkpoint in `folder` both questions about `image`, `rounds` times from empty caches.
/// `max_pixels` replaces what the checkpoint says.
pub(crate) fn converse(
    folder: &str,
    image: &str,
    rounds: &str,
    max_pixels: Option<&str>,
) -> Result<()> {
    let max_pixels = max_pixels.map(str::parse).transpose()?;
    let mut name = Some(json!({"name": "abstractllm"}));
    for _ in 0..rounds.parse()? {
        let mut limits = CacheLimits::default();
        // The model stays; everything else is forgotten.
        limits.keep_alive = None;
        let caches = Caches::new(limits);
        let load = || {
            let caches = caches.clone();
            MlxProvider::load(folder, MlxOptions { caches, ..MlxOptions::default() })
        };
        let model = load()?;
        let started = Instant::now();
        drop(load()?);
        eprintln!("a second load of the same model: {:.1?}", started.elapsed());
        name.take().map_or(Ok(()), |name| say(&name))?;
        let mut messages: Vec<Message> = Vec::new();
        for (turn, question) in (1..).zip(QUESTIONS) {
            let picture = (turn == 1).then(|| Part::Image(Image::Path(PathBuf::from(image))));
            let parts = picture.into_iter().chain([Part::Text(question.to_owned())]);
            messages.push(Message::new(Role::User, parts));
            let params = GenerateParams {
                max_tokens: Some(TOKENS),
                temperature: Some(0.0),
                max_pixels,
                ..GenerateParams::default()
            };
            let request = Request::new(messages.clone()).with_params(params);
            let answer = blocking::generate(&model, request)?;
            let usage = answer.completion.usage;
            say(&json!({
                "turn": turn,
                "first_s": answer.completion.time_to_first_token.map(|time| Duration::as_secs_f64(&time)),
                "text": answer.text,
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
            }))?;
            messages.push(Message::new(Role::Assistant, [Part::Text(answer.text)]));
        }
    }
    say(&json!({"peak_bytes": benches::resident_bytes("VmHWM")}))
}

fn say(line: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
