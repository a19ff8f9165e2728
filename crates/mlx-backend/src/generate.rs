//! One answer in the making: what the caches know, images through the tower, and the prompt through the
//! decoder in steps. The engine calls [`Generation::step`] so that several can take turns; from the
//! first token on a [`Batch`](crate::batch::Batch) computes, and the generation says what came of it.

mod answer;
mod job;

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc, time::Instant};

use llm_core::{Event, GenerateParams, Progress, Stage, StopMatcher};
use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{self, indexing::TryIndexOp},
    transforms::eval,
};
use perf_monitor::{Counter, Phase, Span};
use vision_preproc::{Grid, Patches};

pub(crate) use self::job::Job;
use crate::{
    Error, Result,
    adapter::{self, Adapter},
    caches::{DeviceCaches, Digest, Unit, prompt_identity, reader_identity},
    kv_cache::{KvCache, KvCacheOptions},
    models::{Seen, VisionLanguageModel, frames_at_a_time},
    nn::mlx_error,
    prompt::Prompt,
    rope::Positions,
    sampler::Sampler,
    text_stream::TextStream,
};

/// Most tokens of a prompt that are read at a time while others wait for their next token.
const SHARED_STEP_TOKENS: usize = 512;

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// More of the same.
    Running,
    /// The prompt is read: tokens can be made.
    Read,
    Done,
}

/// An answer in the making.
#[derive(Debug)]
pub(crate) struct Generation {
    job: Job,
    model: Rc<dyn VisionLanguageModel>,
    adapter: Option<Rc<Adapter>>,
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
    Encode { caches: Vec<KvCache>, images: Images },
    /// The prompt up to `done` is in the caches; `embeddings` are those of what was not reused.
    Prefill { caches: Vec<KvCache>, embeddings: Array, positions: Positions, done: usize },
    /// The prompt is in the caches.
    Read(ReadPrompt),
    /// Somebody else makes the tokens.
    Decode,
}

/// What a decoder needs to go on after a prompt.
#[derive(Debug)]
pub(crate) struct ReadPrompt {
    pub(crate) caches: Vec<KvCache>,
    pub(crate) sampler: Sampler,
    /// The first token, `[1]`.
    pub(crate) next: Array,
    /// What is added to the number of tokens read to get the position of the next.
    pub(crate) delta: i32,
    /// What the first token was drawn from, for comparisons.
    #[cfg(test)]
    pub(crate) logits: Array,
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

impl Generation {
    /// Returns the generation of `job` by `model`, as `adapter` changes it; nothing is computed yet.
    pub(crate) fn new(
        job: Job,
        model: Rc<dyn VisionLanguageModel>,
        adapter: Option<Rc<Adapter>>,
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
            adapter,
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

    /// Whether nobody listens any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.job.events.is_closed()
    }

    /// Returns how its keys and values are kept.
    pub(crate) fn kv_cache(&self) -> &KvCacheOptions {
        &self.job.kv_cache
    }

    /// Returns the most tokens of a guess at what follows; `None` if there are to be no guesses.
    pub(crate) fn lookup_tokens(&self) -> Option<usize> {
        Some(self.job.prompt_lookup_tokens).filter(|&tokens| tokens > 0)
    }

    /// Returns the tokens of the prompt.
    pub(crate) fn prompt_ids(&self) -> &[u32] {
        &self.job.prompt.ids
    }

    /// Returns how many tokens may still be made.
    pub(crate) fn room_tokens(&self) -> usize {
        self.max_tokens.saturating_sub(self.completion_tokens)
    }

    /// Counts a guess of `guessed` tokens of which so many were `right`.
    pub(crate) fn report_guess(&self, guessed: usize, right: usize) {
        self.job.recorder.count(Counter::DraftedTokens, guessed as u64);
        self.job.recorder.count(Counter::AcceptedTokens, right as u64);
    }

    /// The identity of what keeps keys and values like this, for keys of prefixes.
    fn reader(&self) -> Digest {
        let reader = reader_identity(&self.job.model, &self.job.kv_cache);
        match self.model.media().is_some_and(|media| media.whole_prompt) {
            false => reader,
            true => prompt_identity(&reader, &self.units[..self.job.prompt.ids.len()]),
        }
    }

    /// Most answers of its model that may be made while this one is.
    pub(crate) fn max_batch(&self) -> usize {
        self.job.max_batch.max(1)
    }

    /// Does the next piece of work; a smaller one if it is not `alone`.
    ///
    /// # Errors
    /// What went wrong; the caller sends it as the end of the stream.
    pub(crate) fn step(&mut self, alone: bool) -> Result<Status> {
        if self.is_cancelled() {
            // What was read so far is not lost: the caller may ask again.
            if let State::Prefill { caches, .. } = &self.state {
                self.keep_prefix(caches);
            }
            return Ok(Status::Done);
        }
        let adapter = self.adapter.clone();
        adapter::with(adapter.as_ref(), || match &mut self.state {
            State::Start => self.look_up(),
            State::Encode { .. } => self.encode_next(),
            State::Prefill { .. } => self.prefill_next(alone),
            State::Read(_) | State::Decode => Ok(Status::Read),
        })
    }

    /// Hands out what the prompt led to, once.
    pub(crate) fn take_read(&mut self) -> Option<ReadPrompt> {
        match std::mem::replace(&mut self.state, State::Decode) {
            State::Read(read) => Some(read),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Opens a span of a token being made.
    pub(crate) fn decode_span(&self) -> Span<'static> {
        Span::shared(&self.job.recorder, Phase::DecodeStep)
    }

    /// Whether the next token is the last that may be made.
    pub(crate) fn is_last(&self) -> bool {
        self.completion_tokens + 1 >= self.max_tokens
    }

    /// Says how many bytes its keys and values take now.
    pub(crate) fn holds(&self, bytes: u64) {
        self.job.reservation.holds(bytes);
    }

    /// Returns what changes the model for it.
    pub(crate) fn adapter(&self) -> Option<&Rc<Adapter>> {
        self.adapter.as_ref()
    }

    /// Returns the model.
    pub(crate) fn model(&self) -> Rc<dyn VisionLanguageModel> {
        self.model.clone()
    }

    /// Sends `error` as the end of the stream.
    pub(crate) fn report(&mut self, error: Error) {
        drop(self.job.place.take());
        // A closed stream has nobody left to tell.
        let _ = self.job.events.send(Err(error.into()));
    }

    /// Takes what the caches have, and asks for the patches of the other images.
    fn look_up(&mut self) -> Result<Status> {
        let mut caches = self.caches.borrow_mut();
        let mut span = Span::enter(&*self.job.recorder, Phase::PrefillReused);
        let (layers, reused) = caches
            .prefix(&self.reader(), &self.units, self.model.layers(), &self.job.kv_cache)
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
                known = caches.features(&self.job.tower, &image.key);
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
        let images = Images { features, arrived: VecDeque::new(), wanted, encoded: 0 };
        drop(caches);
        self.state = State::Encode { caches: layers, images };
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
        let image = &self.job.prompt.images[index];
        let at_a_time = frames_at_a_time(grid, image.seen.seconds.is_some());
        let encoded =
            encode(&*self.model, patches, at_a_time).map_err(|e| mlx_error("vision tower", &e))?;
        span.units(rows as u64);
        drop(span);
        let key = self.job.prompt.images[index].key;
        forgotten("features", self.caches.borrow().keep_features(&self.job.tower, &key, &encoded));
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
        let State::Encode { caches, images } = std::mem::replace(&mut self.state, State::Start)
        else {
            return Ok(Status::Running);
        };
        let Prompt { ids, images: places, .. } = &self.job.prompt;
        let seen: Vec<Seen> = places.iter().map(|image| image.seen).collect();
        let positions = self.model.positions(ids, &seen)?;
        let new = &ids[self.reused..];
        let tokens = Array::from_slice(new, &[1, new.len() as i32]);
        let media = self.model.media();
        let is_feature = |id| media.is_some_and(|media| media.is_placeholder(id));
        let run = || {
            let mut features = Vec::new();
            for (image, (_, known)) in places.iter().zip(&images.features) {
                if let Some(known) = known {
                    // An image may be reused in part.
                    let read = image.range.start..self.reused.max(image.range.start);
                    let from = ids[read].iter().filter(|&&id| is_feature(id)).count() as i32;
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
        self.state = State::Prefill { caches, embeddings, positions, done: self.reused };
        Ok(Status::Running)
    }

    /// Returns how much of the prompt was in the cache.
    #[cfg(test)]
    pub(crate) fn reused(&self) -> usize {
        self.reused
    }

    /// Keeps what the decoder has read.
    pub(crate) fn keep_prefix(&self, caches: &[KvCache]) {
        let read = caches.first().map_or(0, KvCache::offset) as usize;
        let read = &self.units[..read.min(self.units.len())];
        let kept = self.caches.borrow_mut().keep_prefix(&self.reader(), read, caches);
        forgotten("prefix", kept);
    }

    fn prefill_next(&mut self, alone: bool) -> Result<Status> {
        let State::Prefill { caches, embeddings, positions, done } = &mut self.state else {
            return Ok(Status::Running);
        };
        let total = self.job.prompt.ids.len();
        let most = if alone { usize::MAX } else { SHARED_STEP_TOKENS };
        let end = total.min(*done + self.job.prefill_step_tokens.clamp(1, most));
        let end = positions.step_end(*done, end);
        let mut span = Span::enter(&*self.job.recorder, Phase::PrefillNew);
        span.units((end - *done) as u64);
        let range = *done..end;
        let (from, to) = ((*done - self.reused) as i32, (end - self.reused) as i32);
        let fail = |e: mlx_rs::error::Exception| mlx_error("prefill", &e);
        let rotation = self.model.prompt_rotation(positions, range).map_err(fail)?;
        let x = embeddings.try_index((.., from..to, ..)).map_err(fail)?;
        *done = end;
        let hidden = self.model.forward(x, &rotation, caches).map_err(fail)?;
        KvCache::pack_if_due(caches, &self.job.kv_cache).map_err(fail)?;
        let mut status = Status::Running;
        if end < total {
            eval(caches.iter().flat_map(KvCache::arrays)).map_err(fail)?;
            self.job.reservation.holds(KvCache::bytes(caches));
        } else {
            let last = hidden.try_index((.., -1, ..)).map_err(fail)?;
            let logits = self.model.logits(&last).map_err(fail)?;
            let (params, ids) = (&self.job.params, &self.job.prompt.ids);
            let mut sampler = Sampler::new(params, ids, logits.dim(-1)).map_err(fail)?;
            sampler.hold_to(self.job.grammar.take());
            let next = sampler.sample(&logits).map_err(fail)?;
            next.eval().map_err(fail)?;
            let read = ReadPrompt {
                caches: std::mem::take(caches),
                sampler,
                next,
                delta: positions.delta,
                #[cfg(test)]
                logits,
            };
            // Others may ask about the same while this answer is still being written.
            self.keep_prefix(&read.caches);
            self.job.reservation.prompt_was_read(KvCache::bytes(&read.caches));
            self.state = State::Read(read);
            status = Status::Read;
        }
        drop(span);
        self.job.send(Event::Progress(Progress::new(Stage::Prefill, end as u64, total as u64)));
        Ok(status)
    }
}

/// Makes features of patches, of `at_a_time` frames at a time, which do not see each other.
pub(crate) fn encode(
    model: &dyn VisionLanguageModel,
    patches: Arc<Patches>,
    at_a_time: usize,
) -> MlxResult<Array> {
    let grid = patches.grid;
    let (frame, rows) = (grid.h * grid.w, grid.patches());
    let width = patches.values.len() / rows.max(1);
    let mut patches = Some(patches);
    let mut parts = Vec::with_capacity(grid.t.div_ceil(at_a_time.max(1)));
    for start in (0..grid.t).step_by(at_a_time.max(1)) {
        let end = grid.t.min(start + at_a_time);
        let Some(held) = &patches else { break };
        let values = &held.values[start * frame * width..end * frame * width];
        let pixels = Array::from_slice(values, &[((end - start) * frame) as i32, width as i32]);
        if end == grid.t {
            patches = None;
        }
        let part = model.encode(&pixels, Grid { t: end - start, ..grid })?;
        part.eval()?;
        parts.push(part);
    }
    match parts.len() {
        1 => Ok(parts.swap_remove(0)),
        _ => {
            let features = ops::concatenate(&parts, 0)?;
            features.eval()?;
            Ok(features)
        }
    }
}

/// Says that something could not be kept, which costs the next request time and this one nothing.
fn forgotten(what: &str, kept: mlx_rs::error::Result<()>) {
    if let Err(error) = kept {
        tracing::warn!(what, error = error.what(), "not kept in the cache");
    }
}
