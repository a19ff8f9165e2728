//! One answer in the making: images through the tower, the prompt through the decoder in steps,
//! then token after token. The engine calls [`Generation::step`] until it is done, so that several
//! answers can take turns.

use std::{collections::BTreeSet, rc::Rc, sync::Arc, time::Instant};

use llm_core::{
    Completion, Event, FinishReason, GenerateParams, Progress, Result as CoreResult, Stage, Usage,
};
use mlx_rs::{
    Array,
    ops::indexing::TryIndexOp,
    transforms::{async_eval, eval},
};
use perf_monitor::{Gauge, GenerationTimer, Phase, Recorder, Span};
use tokio::sync::mpsc::UnboundedSender;
use vision_preproc::{Grid, Patches};

use crate::{
    Error, Result,
    cache::KvCache,
    models::VisionLanguageModel,
    nn::mlx_error,
    prompt::Prompt,
    rope::{Positions, Rotation},
    sampler::Sampler,
    stop::StopMatcher,
    text_stream::TextStream,
    tokenizer::Tokenizer,
};

/// A request as the engine takes it: everything is owned, so that it can change threads.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prompt: Prompt,
    pub(crate) params: GenerateParams,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) stop_tokens: Arc<BTreeSet<u32>>,
    pub(crate) prefill_step_tokens: usize,
    pub(crate) events: UnboundedSender<CoreResult<Event>>,
    pub(crate) recorder: Arc<dyn Recorder>,
    /// Reports the generation when it is taken out, or dropped with the job.
    pub(crate) timer: Option<GenerationTimer>,
    pub(crate) started: Instant,
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Running,
    Done,
}

/// An answer in the making.
#[derive(Debug)]
pub(crate) struct Generation {
    job: Job,
    model: Rc<dyn VisionLanguageModel>,
    state: State,
    text: TextStream,
    stop: StopMatcher,
    max_tokens: usize,
    completion_tokens: usize,
    first_token: Option<Instant>,
    /// Of the images encoded so far.
    grids: Vec<Grid>,
}

#[derive(Debug)]
enum State {
    /// Images wait for the tower; features so far.
    Encode { waiting: std::vec::IntoIter<Patches>, features: Vec<Array>, total: usize },
    /// The prompt up to `done` is in the caches.
    Prefill { reader: Reader, embeddings: Array, positions: Positions, done: usize },
    /// `next` is being computed.
    Decode { reader: Reader, sampler: Sampler, next: Array, delta: i32 },
}

/// The model with the caches of this request.
#[derive(Debug)]
struct Reader {
    model: Rc<dyn VisionLanguageModel>,
    caches: Vec<KvCache>,
}

impl Reader {
    /// Reads embeddings `[1, L, E]` and returns the logits of the last, `[1, V]`.
    fn last_logits(&mut self, x: Array, rotation: &Rotation) -> mlx_rs::error::Result<Array> {
        let hidden = self.model.forward(x, rotation, &mut self.caches)?;
        self.model.logits(&hidden.try_index((.., -1, ..))?)
    }

    /// Submits the step that reads `token` (`[1]`), and returns its logits, not yet computed.
    fn step(&mut self, token: &Array, delta: i32) -> mlx_rs::error::Result<Array> {
        let offset = self.caches.first().map_or(0, KvCache::offset);
        let x = self.model.embed(&token.reshape(&[1, 1])?)?;
        self.last_logits(x, &Rotation::Offset(offset + delta))
    }
}

impl Generation {
    /// Returns the generation of `job` by `model`; nothing is computed yet.
    pub(crate) fn new(mut job: Job, model: Rc<dyn VisionLanguageModel>) -> Self {
        let images = std::mem::take(&mut job.prompt.images);
        let wanted = job.params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize;
        if let Some(timer) = &mut job.timer {
            timer.prompt(job.prompt.ids.len() as u64, 0, images.len() as u64);
        }
        Self {
            state: State::Encode {
                features: Vec::with_capacity(images.len()),
                total: images.len(),
                waiting: images.into_iter(),
            },
            text: TextStream::new(),
            stop: StopMatcher::new(job.params.stop.clone()),
            max_tokens: wanted.min(job.prompt.room_tokens),
            completion_tokens: 0,
            first_token: None,
            grids: Vec::new(),
            model,
            job,
        }
    }

    /// Does the next piece of work and sends what came of it.
    ///
    /// # Errors
    /// What went wrong; the caller sends it as the end of the stream.
    pub(crate) fn step(&mut self) -> Result<Status> {
        if self.job.events.is_closed() {
            return Ok(Status::Done);
        }
        match &mut self.state {
            State::Encode { .. } => self.encode_next(),
            State::Prefill { .. } => self.prefill_next(),
            State::Decode { .. } => self.decode_next(),
        }
    }

    /// Sends `error` as the end of the stream.
    pub(crate) fn fail(self, error: Error) {
        // A closed stream has nobody left to tell.
        let _ = self.job.events.send(Err(error.into()));
    }

    fn encode_next(&mut self) -> Result<Status> {
        let State::Encode { waiting, features, total } = &mut self.state else {
            return Ok(Status::Running);
        };
        let Some(patches) = waiting.next() else {
            return self.begin_prefill();
        };
        let (done, total) = (features.len() as u64, *total as u64);
        self.job.send(Event::Progress(Progress::new(Stage::Encode, done, total)));
        let mut span = Span::enter(&*self.job.recorder, Phase::VisionTower);
        let grid = patches.grid;
        let rows = (grid.t * grid.h * grid.w) as i32;
        let pixels =
            Array::from_slice(&patches.values, &[rows, patches.values.len() as i32 / rows.max(1)]);
        drop(patches);
        let encoded =
            self.model.encode(&pixels, grid).map_err(|e| mlx_error("vision tower", &e))?;
        encoded.eval().map_err(|e| mlx_error("vision tower", &e))?;
        span.units(rows as u64);
        self.grids.push(grid);
        features.push(encoded);
        self.job.send(Event::Progress(Progress::new(Stage::Encode, done + 1, total)));
        Ok(Status::Running)
    }

    fn begin_prefill(&mut self) -> Result<Status> {
        let State::Encode { features, .. } = &self.state else { return Ok(Status::Running) };
        let ids = &self.job.prompt.ids;
        let positions = self.model.positions(ids, &self.grids)?;
        let tokens = Array::from_slice(ids, &[1, ids.len() as i32]);
        let run = || {
            let embeddings = self.model.embed(&tokens)?;
            match features.is_empty() {
                true => Ok(embeddings),
                false => self.model.merge(&embeddings, ids, features),
            }
        };
        let embeddings = run().map_err(|e| mlx_error("prompt embedding", &e))?;
        let reader = Reader { caches: self.model.new_caches(), model: self.model.clone() };
        self.state = State::Prefill { reader, embeddings, positions, done: 0 };
        Ok(Status::Running)
    }

    fn prefill_next(&mut self) -> Result<Status> {
        let State::Prefill { reader, embeddings, positions, done } = &mut self.state else {
            return Ok(Status::Running);
        };
        let total = self.job.prompt.ids.len();
        let end = total.min(*done + self.job.prefill_step_tokens.max(1));
        let mut span = Span::enter(&*self.job.recorder, Phase::PrefillNew);
        span.units((end - *done) as u64);
        let range = *done..end;
        let (from, to) = (range.start as i32, range.end as i32);
        let fail = |e: mlx_rs::error::Exception| mlx_error("prefill", &e);
        let rotation = self.model.prompt_rotation(positions, range).map_err(fail)?;
        let x = embeddings.try_index((.., from..to, ..)).map_err(fail)?;
        *done = end;
        if end < total {
            self.model.forward(x, &rotation, &mut reader.caches).map_err(fail)?;
            eval(reader.caches.iter().flat_map(KvCache::arrays)).map_err(fail)?;
        } else {
            let logits = reader.last_logits(x, &rotation).map_err(fail)?;
            let mut sampler = Sampler::new(&self.job.params, &self.job.prompt.ids, logits.dim(-1))
                .map_err(fail)?;
            let next = sampler.sample(&logits).map_err(fail)?;
            next.eval().map_err(fail)?;
            let delta = positions.delta;
            let placeholder =
                State::Encode { waiting: Vec::new().into_iter(), features: vec![], total: 0 };
            if let State::Prefill { reader, .. } = std::mem::replace(&mut self.state, placeholder) {
                self.state = State::Decode { reader, sampler, next, delta };
            }
        }
        drop(span);
        self.job.send(Event::Progress(Progress::new(Stage::Prefill, end as u64, total as u64)));
        Ok(Status::Running)
    }

    fn decode_next(&mut self) -> Result<Status> {
        let State::Decode { reader, sampler, next, delta } = &mut self.state else {
            return Ok(Status::Running);
        };
        let fail = |e: mlx_rs::error::Exception| mlx_error("decode", &e);
        let span = Span::enter(&*self.job.recorder, Phase::DecodeStep);
        let last = self.completion_tokens + 1 == self.max_tokens;
        // The step after this token is submitted before the token is read, so that the device
        // works while the host turns the token into text. At the end it is thrown away.
        let following = match last {
            true => None,
            false => {
                let logits = reader.step(next, *delta).map_err(fail)?;
                let token = sampler.sample(&logits).map_err(fail)?;
                async_eval([&token]).map_err(fail)?;
                Some(token)
            }
        };
        let token: u32 = next
            .try_item_exact()
            .map_err(|e| Error::Mlx { op: "decode", message: e.to_string() })?;
        drop(span);
        if let Some(following) = following {
            *next = following;
        }
        if let Some(timer) = &mut self.job.timer {
            timer.token();
        }
        self.first_token.get_or_insert_with(Instant::now);
        self.completion_tokens += 1;
        self.take_token(token, last)
    }

    fn take_token(&mut self, token: u32, last: bool) -> Result<Status> {
        if self.job.stop_tokens.contains(&token) {
            return self.finish(FinishReason::Stop);
        }
        let piece = {
            let _span = Span::enter(&*self.job.recorder, Phase::Detokenise);
            self.text.push(&self.job.tokenizer, token)?
        };
        if let Some(piece) = piece
            && self.say(&piece)
        {
            return self.end(FinishReason::Stop);
        }
        if last { self.finish(FinishReason::Length) } else { Ok(Status::Running) }
    }

    /// Sends `piece` as far as no stop text begins in it; returns whether one was found.
    fn say(&mut self, piece: &str) -> bool {
        let matched = self.stop.push(piece);
        if !matched.text.is_empty() {
            self.job.send(Event::Text(matched.text));
        }
        matched.stopped
    }

    /// Sends what was held back, then the end.
    fn finish(&mut self, reason: FinishReason) -> Result<Status> {
        if let Some(rest) = self.text.finish(&self.job.tokenizer)?
            && self.say(&rest)
        {
            return self.end(FinishReason::Stop);
        }
        let held = self.stop.finish();
        if !held.is_empty() {
            self.job.send(Event::Text(held));
        }
        self.end(reason)
    }

    fn end(&mut self, reason: FinishReason) -> Result<Status> {
        let mut usage = Usage::new(self.job.prompt.ids.len(), self.completion_tokens);
        usage.image_tokens = self.job.prompt.image_tokens;
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let completion = Completion::new(reason, usage)
            .with_times(first - self.job.started, now.saturating_duration_since(first));
        // Before the end is seen: who has seen it may ask for the report at once.
        drop(self.job.timer.take());
        self.job.report_memory();
        self.job.send(Event::End(completion));
        Ok(Status::Done)
    }
}

impl Job {
    /// Sends an event; a stream that nobody reads any more is noticed at the next step.
    fn send(&self, event: Event) {
        let _ = self.events.send(Ok(event));
    }

    fn report_memory(&self) {
        if !self.recorder.enabled() {
            return;
        }
        let readings = [
            (Gauge::MlxActiveBytes, mlx_rs::memory::active_memory()),
            (Gauge::MlxPeakBytes, mlx_rs::memory::peak_memory()),
            (Gauge::MlxCacheBytes, mlx_rs::memory::cache_memory()),
        ];
        for (gauge, reading) in readings {
            if let Ok(bytes) = reading {
                self.recorder.gauge(gauge, bytes as u64);
            }
        }
    }
}
