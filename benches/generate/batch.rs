//! Many requests at a time: one process that keeps so many of them in flight and says how many tokens a
//! second they get together.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use abstractllm::{
    GenerateParams, Image, Request, blocking,
    mlx::{CacheLimits, Caches, MlxOptions, MlxProvider, device_info},
    perf::{Counter, Gauge, GenerationTrace, Phase, PhaseEvent, Recorder},
};
use benches::median;
use serde_json::{Value, json};

use crate::{
    Result, process,
    worker::{QUESTION, say},
};

/// The steps of decoding, one event for each answer that took part.
#[derive(Debug, Default)]
struct Steps(Mutex<Vec<PhaseEvent>>);

impl Recorder for Steps {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        if event.phase == Phase::DecodeStep {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        }
    }

    fn count(&self, _counter: Counter, _amount: u64) {}

    fn gauge(&self, _gauge: Gauge, _value: u64) {}

    fn generation(&self, _trace: &GenerationTrace) {}
}

impl Steps {
    /// Returns how many steps followed one another in which `size` answers took part, and how long
    /// they took.
    fn full(&self, size: usize) -> (u32, Duration) {
        let mut events =
            std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        events.sort_by_key(|event| event.start);
        // Events of one step overlap, and steps follow each other.
        let mut steps: Vec<(usize, Instant)> = Vec::new();
        for event in events {
            match steps.last_mut() {
                Some((count, end)) if event.start < *end => *count += 1,
                _ => steps.push((1, event.end)),
            }
        }
        let pairs = steps.windows(2).filter(|pair| pair.iter().all(|step| step.0 == size));
        pairs.fold((0, Duration::ZERO), |(count, took), pair| {
            (count + 1, took + pair[1].1.duration_since(pair[0].1))
        })
    }
}

/// Loads the checkpoint in `folder` and, for each of `sizes`, has so many callers ask `requests` times
/// about `image`, for `tokens` tokens. The prompt is read once: decoding is what is looked at.
pub(crate) fn answer(
    folder: &str,
    image: &str,
    tokens: &str,
    requests: &str,
    sizes: &str,
) -> Result<()> {
    let (tokens, requests): (u32, usize) = (tokens.parse()?, requests.parse()?);
    let sizes = parse(sizes)?;
    let steps = Arc::new(Steps::default());
    let options = MlxOptions {
        caches: Caches::new(CacheLimits::default()),
        recorder: steps.clone(),
        max_batch: sizes.iter().copied().max().unwrap_or(1),
        ..MlxOptions::default()
    };
    let model = MlxProvider::load(folder, options)?;
    let ask = || {
        let request = Request::images([Image::Path(image.into())], QUESTION);
        let params = GenerateParams {
            max_tokens: Some(tokens),
            temperature: Some(0.0),
            ..GenerateParams::default()
        };
        blocking::generate(&model, request.with_params(params))
    };
    for &size in &sizes {
        // Kernels of another number of rows are compiled when they are first needed.
        let mut made = 0;
        let mut wall = Duration::ZERO;
        for warm in [false, true] {
            steps.full(size);
            let started = Instant::now();
            let answers = thread::scope(|scope| {
                let caller = || (0..requests).map(|_| ask()).collect::<Vec<_>>();
                let callers: Vec<_> = (0..size).map(|_| scope.spawn(caller)).collect();
                callers.into_iter().map(|caller| caller.join()).collect::<Vec<_>>()
            });
            if warm {
                wall = started.elapsed();
                for answers in answers {
                    for answer in answers.map_err(|_| "a caller panicked")? {
                        made += answer?.completion.usage.completion_tokens;
                    }
                }
            }
        }
        let (count, took) = steps.full(size);
        say(&json!({
            "batch": size,
            "steps": count,
            "decode_tokens_per_s": f64::from(count) * size as f64 / took.as_secs_f64(),
            "total_tokens_per_s": made as f64 / wall.as_secs_f64(),
            "peak_bytes": device_info()?.peak_bytes,
        }))?;
    }
    Ok(())
}

fn parse(sizes: &str) -> Result<Vec<usize>> {
    let sizes: Vec<usize> = sizes.split(',').map(str::parse).collect::<Result<_, _>>()?;
    if sizes.contains(&0) {
        return Err("a batch of no requests".into());
    }
    Ok(sizes)
}

/// What was measured of one number of requests at a time, in each process.
#[derive(Debug, Default)]
struct Row {
    size: u64,
    decode: Vec<f64>,
    total: Vec<f64>,
    peak_gb: Vec<f64>,
}

/// Runs `rounds` processes of [`answer`] and returns their table.
pub(crate) fn run(arguments: &[&str], rounds: usize, log: &Path) -> Result<String> {
    let ours = std::env::current_exe()?;
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        process::lines(&ours, &[&["batch"], arguments].concat(), log, |line: &Value| {
            let Some(size) = line["batch"].as_u64() else { return };
            let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
            let at = rows.iter().position(|row| row.size == size).unwrap_or_else(|| {
                rows.push(Row { size, ..Row::default() });
                rows.len() - 1
            });
            rows[at].decode.push(number("decode_tokens_per_s"));
            rows[at].total.push(number("total_tokens_per_s"));
            rows[at].peak_gb.push(number("peak_bytes") / 1e9);
            eprintln!("round {}: {line}", round + 1);
        })?;
    }
    let mut text = String::from(
        "\n| requests at a time | decode of all, tok/s | times the first | with joining and leaving, tok/s \
         | peak of MLX's memory, GB |\n|--:|--:|--:|--:|--:|\n",
    );
    let first = rows.first().map_or(f64::NAN, |row| median(&row.decode));
    for row in &rows {
        let decode = median(&row.decode);
        writeln!(
            text,
            "| {} | {decode:.1} | {:.2} | {:.1} | {:.2} |",
            row.size,
            decode / first,
            median(&row.total),
            median(&row.peak_gb),
        )?;
    }
    Ok(text)
}
