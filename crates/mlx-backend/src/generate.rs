//! One answer in the making: what the caches know, images through the tower, the prompt through the
//! decoder in steps, then token after token. The engine calls [`Generation::step`] until it is done,
//! so that several answers can take turns.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
    sync::{Arc, mpsc::SyncSender},
    time::Instant,
};

use llm_core::{
    Completion, Event, FinishReason, GenerateParams, Progress, Result as CoreResult, Stage,
    StopMatcher, Usage,
};
use mlx_rs::{
    Array,
    ops::indexing::TryIndexOp,
    transforms::{async_eval, eval},
};
use perf_monitor::{Counter, Gauge, GenerationTimer, Phase, Recorder, Span};
use tokio::sync::mpsc::UnboundedSender;
use vision_preproc::{Grid, Patches};

use crate::{
    Error, Result,
    caches::{Caches, DeviceCaches, Digest, Unit},
    kv_cache::KvCache,
    models::VisionLanguageModel,
    nn::mlx_error,
    prompt::Prompt,
    rope::{Positions, Rotation},
    sampler::Sampler,
    text_stream::TextStream,
    tokenizer::Tokenizer,
};

/// A request as the engine takes it: everything is owned, so that it can change threads.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prompt: Prompt,
    /// Receives the numbers of the images whose patches are needed.
    pub(crate) wanted: SyncSender<Vec<usize>>,
    /// The identity of the model, for keys.
    pub(crate) model: Digest,
    pub(crate) caches: Arc<Caches>,
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
    caches: Rc<RefCell<DeviceCaches>>,
    state: State,
    text: TextStream,
    stop: StopMatcher,
    max_tokens: usize,
    completion_tokens: usize,
    first_token: Option<Instant>,
    /// What stands at each position, tokens of the answer included.
    units: Vec<Unit>,
    /// How many of them were in the cache of prefixes.
    reused: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing was done.
    Start,
    /// Images wait for their patches, or the patches for the tower.
    Encode { reader: Reader, images: Images },
    /// The prompt up to `done` is in the caches; `embeddings` are those of what was not reused.
    Prefill { reader: Reader, embeddings: Array, positions: Positions, done: usize },
    /// `next` is being computed.
    Decode { reader: Reader, sampler: Sampler, next: Array, delta: i32 },
}

/// The images of a prompt on their way through the tower.
#[derive(Debug)]
struct Images {
    /// For each image of the prompt: whether its features are needed, and those known.
    features: Vec<(bool, Option<Array>)>,
    arrived: VecDeque<(usize, Arc<Patches>)>,
    /// Images that were asked for, and how many of them are encoded.
    wanted: usize,
    encoded: usize,
}

/// The model with the caches of this request.
#[derive(Debug)]
struct Reader {
    model: Rc<dyn VisionLanguageModel>,
    caches: Vec<KvCache>,
    /// What the last step computed, for comparisons.
    #[cfg(test)]
    logits: Option<Array>,
}

impl Reader {
    fn new(model: Rc<dyn VisionLanguageModel>, caches: Vec<KvCache>) -> Self {
        Self {
            model,
            caches,
            #[cfg(test)]
            logits: None,
        }
    }

    /// Reads embeddings `[1, L, E]` and returns the logits of the last, `[1, V]`.
    fn last_logits(&mut self, x: Array, rotation: &Rotation) -> mlx_rs::error::Result<Array> {
        let hidden = self.model.forward(x, rotation, &mut self.caches)?;
        let logits = self.model.logits(&hidden.try_index((.., -1, ..))?)?;
        #[cfg(test)]
        self.logits.replace(logits.clone());
        Ok(logits)
    }

    /// Submits the step that reads `token` (`[1]`), and returns its logits, not yet computed.
    fn step(&mut self, token: &Array, delta: i32) -> mlx_rs::error::Result<Array> {
        let offset = self.offset() as i32;
        let x = self.model.embed(&token.reshape(&[1, 1])?)?;
        self.last_logits(x, &Rotation::from(offset + delta))
    }

    /// Returns how many tokens were read.
    fn offset(&self) -> usize {
        self.caches.first().map_or(0, KvCache::offset) as usize
    }
}

impl Generation {
    /// Returns the generation of `job` by `model`; nothing is computed yet.
    pub(crate) fn new(
        job: Job,
        model: Rc<dyn VisionLanguageModel>,
        caches: Rc<RefCell<DeviceCaches>>,
    ) -> Self {
        let wanted = job.params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize;
        Self {
            state: State::Start,
            text: TextStream::new(),
            stop: StopMatcher::new(job.params.stop.clone()),
            max_tokens: wanted.min(job.prompt.room_tokens),
            completion_tokens: 0,
            first_token: None,
            units: job.prompt.units(),
            reused: 0,
            model,
            caches,
            job,
        }
    }

    /// Whether there is something to do; otherwise patches are awaited.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.state {
            State::Encode { images, .. } => {
                !images.arrived.is_empty() || images.encoded == images.wanted
            }
            _ => true,
        }
    }

    /// Takes the patches of an image that was asked for.
    pub(crate) fn give(&mut self, image: usize, patches: Arc<Patches>) {
        if let State::Encode { images, .. } = &mut self.state {
            images.arrived.push_back((image, patches));
        }
    }

    /// Does the next piece of work and sends what came of it.
    ///
    /// # Errors
    /// What went wrong; the caller sends it as the end of the stream.
    pub(crate) fn step(&mut self) -> Result<Status> {
        if self.job.events.is_closed() {
            // What was read so far is not lost: the caller may ask again.
            self.keep_prefix();
            return Ok(Status::Done);
        }
        match &mut self.state {
            State::Start => self.look_up(),
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

    /// Takes what the caches have, and asks for the patches of the other images.
    fn look_up(&mut self) -> Result<Status> {
        let mut caches = self.caches.borrow_mut();
        let mut span = Span::enter(&*self.job.recorder, Phase::PrefillReused);
        let (layers, reused) = caches
            .prefix(&self.job.model, &self.units, self.model.layers())
            .map_err(|e| mlx_error("prefix cache", &e))?;
        span.units(reused as u64);
        drop(span);
        self.reused = reused;
        let recorder = &self.job.recorder;
        let images = &self.job.prompt.images;
        recorder.count(
            if reused > 0 { Counter::PromptCacheHits } else { Counter::PromptCacheMisses },
            1,
        );
        if let Some(timer) = &mut self.job.timer {
            let prompt = self.job.prompt.ids.len();
            timer.prompt((prompt - reused) as u64, reused as u64, images.len() as u64);
        }
        let mut asked: Vec<usize> = Vec::new();
        let mut features = Vec::with_capacity(images.len());
        for (i, image) in images.iter().enumerate() {
            let needed = image.range.end > reused;
            let mut known = None;
            // The same image twice is encoded once.
            if needed && !asked.iter().any(|&other| images[other].key == image.key) {
                known = caches.features(&self.job.model, &image.key);
                let hit = known.is_some();
                recorder.count(
                    if hit { Counter::FeatureCacheHits } else { Counter::FeatureCacheMisses },
                    1,
                );
                if !hit {
                    asked.push(i);
                }
            }
            features.push((needed, known));
        }
        let wanted = asked.len();
        // If the other side is gone, the stream is closed, which the next step notices.
        let _ = self.job.wanted.send(asked);
        let reader = Reader::new(self.model.clone(), layers);
        let images = Images { features, arrived: VecDeque::new(), wanted, encoded: 0 };
        drop(caches);
        self.state = State::Encode { reader, images };
        Ok(Status::Running)
    }

    fn encode_next(&mut self) -> Result<Status> {
        let State::Encode { images, .. } = &mut self.state else { return Ok(Status::Running) };
        let Some((index, patches)) = images.arrived.pop_front() else {
            return self.begin_prefill();
        };
        let mut span = Span::enter(&*self.job.recorder, Phase::VisionTower);
        let grid = patches.grid;
        let rows = grid.patches() as i32;
        let pixels =
            Array::from_slice(&patches.values, &[rows, patches.values.len() as i32 / rows.max(1)]);
        drop(patches);
        let encoded =
            self.model.encode(&pixels, grid).map_err(|e| mlx_error("vision tower", &e))?;
        encoded.eval().map_err(|e| mlx_error("vision tower", &e))?;
        span.units(rows as u64);
        drop(span);
        let key = self.job.prompt.images[index].key;
        forgotten("features", self.caches.borrow().keep_features(&self.job.model, &key, &encoded));
        for (image, (needed, known)) in self.job.prompt.images.iter().zip(&mut images.features) {
            if *needed && image.key == key {
                *known = Some(encoded.clone());
            }
        }
        images.encoded += 1;
        let (done, total) = (images.encoded as u64, images.wanted as u64);
        self.job.send(Event::Progress(Progress::new(Stage::Encode, done, total)));
        Ok(Status::Running)
    }

    fn begin_prefill(&mut self) -> Result<Status> {
        let State::Encode { reader, images } = std::mem::replace(&mut self.state, State::Start)
        else {
            return Ok(Status::Running);
        };
        let Prompt { ids, images: places, .. } = &self.job.prompt;
        let grids: Vec<Grid> = places.iter().map(|image| image.grid).collect();
        let positions = self.model.positions(ids, &grids)?;
        let new = &ids[self.reused..];
        let tokens = Array::from_slice(new, &[1, new.len() as i32]);
        let run = || {
            let mut features = Vec::new();
            for (image, (_, known)) in places.iter().zip(&images.features) {
                if let Some(known) = known {
                    // An image may be reused in part.
                    let from = self.reused.saturating_sub(image.range.start) as i32;
                    features.push(known.try_index((from.., ..))?);
                }
            }
            let embeddings = self.model.embed(&tokens)?;
            match features.is_empty() {
                true => Ok(embeddings),
                false => self.model.merge(&embeddings, new, &features),
            }
        };
        let embeddings = run().map_err(|e| mlx_error("prompt embedding", &e))?;
        self.state = State::Prefill { reader, embeddings, positions, done: self.reused };
        Ok(Status::Running)
    }

    /// Returns the logits of the last step, `[1, V]`, once there are any.
    #[cfg(test)]
    pub(crate) fn logits(&self) -> Option<&Array> {
        match &self.state {
            State::Decode { reader, .. } => reader.logits.as_ref(),
            _ => None,
        }
    }

    /// Returns how much of the prompt was in the cache.
    #[cfg(test)]
    pub(crate) fn reused(&self) -> usize {
        self.reused
    }

    /// Keeps what the decoder has read.
    fn keep_prefix(&self) {
        let (State::Prefill { reader, .. } | State::Decode { reader, .. }) = &self.state else {
            return;
        };
        let read = reader.offset().min(self.units.len());
        let kept = self.caches.borrow_mut().keep_prefix(
            &self.job.model,
            &self.units[..read],
            &reader.caches,
        );
        forgotten("prefix", kept);
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
        let (from, to) = ((*done - self.reused) as i32, (end - self.reused) as i32);
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
            if let State::Prefill { reader, .. } = std::mem::replace(&mut self.state, State::Start)
            {
                self.state = State::Decode { reader, sampler, next, delta };
            }
            // Others may ask about the same while this answer is still being written.
            self.keep_prefix();
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
        let mut span = Span::enter(&*self.job.recorder, Phase::DecodeStep);
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
        span.units(1);
        drop(span);
        if let Some(following) = following {
            *next = following;
        }
        if let Some(timer) = &mut self.job.timer {
            timer.token();
        }
        self.first_token.get_or_insert_with(Instant::now);
        self.completion_tokens += 1;
        self.units.push(Unit::Token(token));
        self.take_token(token, last)
    }

    fn take_token(&mut self, token: u32, last: bool) -> Result<Status> {
        if self.job.stop_tokens.contains(&token) {
            return self.finish(FinishReason::Stop);
        }
        let piece = {
            let mut span = Span::enter(&*self.job.recorder, Phase::Detokenise);
            span.units(1);
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
        self.keep_prefix();
        let mut usage = Usage::new(self.job.prompt.ids.len(), self.completion_tokens);
        usage.image_tokens = self.job.prompt.image_tokens;
        usage.cached_tokens = self.reused;
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

/// Says that something could not be kept, which costs the next request time and this one nothing.
fn forgotten(what: &str, kept: mlx_rs::error::Result<()>) {
    if let Err(error) = kept {
        tracing::warn!(what, error = error.what(), "not kept in the cache");
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
        self.caches.report_to(&*self.recorder);
    }
}
