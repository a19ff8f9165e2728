//! The answers of one model whose tokens are made together: a step reads the last token of each and
//! computes the next of each, so that weights are read once for all. Answers join and leave between
//! two steps. One that is alone is read by itself, with nothing that a batch would need.

mod forced;
mod lookup;
mod speculate;

use std::rc::Rc;

use mlx_rs::{
    Array, Dtype,
    error::Result as MlxResult,
    ops::{self, indexing::TryIndexOp},
    transforms::async_eval,
};
use perf_monitor::Span;

use self::lookup::Lookup;
use crate::{
    Error, Result,
    adapter::{self, Adapter},
    device::Backend,
    generate::{Generation, ReadPrompt, Status},
    kv_cache::{KvCache, KvCacheOptions, LayerCaches, RowCaches, SequenceCaches},
    models::VisionLanguageModel,
    nn::mlx_error,
    rope::Rotation,
    sampler::{self, Sampler},
};

/// Answers that take their steps together.
#[derive(Debug)]
pub(crate) struct Batch {
    model: Rc<dyn VisionLanguageModel>,
    /// What changes the model for all of them.
    adapter: Option<Rc<Adapter>>,
    backend: Backend,
    rows: Vec<Row>,
    read: Read,
    /// The next token of each row, `[B]`, being computed.
    next: Option<Array>,
    /// Those that take part from the next step on.
    joining: Vec<(Row, Vec<KvCache>, Array)>,
    /// What the last step computed, `[B, V]`, for comparisons.
    #[cfg(test)]
    pub(crate) logits: Option<Array>,
}

/// An answer in a batch.
#[derive(Debug)]
struct Row {
    generation: Generation,
    sampler: Sampler,
    delta: i32,
    /// Guesses at what follows, if asked for.
    lookup: Option<Lookup>,
    /// Why its grammar does not go on.
    failure: Option<Error>,
    /// Whether it has ended.
    done: bool,
}

/// What the decoder has read of all rows.
#[derive(Debug)]
enum Read {
    One(Vec<KvCache>),
    Many(RowCaches),
    /// Several for a model that takes each where it is.
    Apart(SequenceCaches),
}

impl Row {
    /// Tells the sampler of the next token, before it chooses the one after it.
    fn tell(&mut self, token: u32) {
        if self.failure.is_none() {
            self.failure = self.sampler.take(token).err();
        }
    }

    /// Takes the next token of the answer, which may `end` it, and of which `caches` returns what was
    /// read.
    fn take(&mut self, token: u32, ends: bool, caches: &dyn Fn() -> MlxResult<Vec<KvCache>>) {
        self.lookup.iter_mut().for_each(|lookup| lookup.push(token));
        let taken = match self.failure.take() {
            Some(error) => Err(error),
            None => self.generation.take(token, ends, caches),
        };
        match taken {
            Ok(status) => self.done = status == Status::Done,
            Err(error) => {
                self.generation.report(error);
                self.done = true;
            }
        }
    }
}

impl Batch {
    /// Returns a batch of `model`, as `adapter` changes it, without answers.
    pub(crate) fn new(
        model: Rc<dyn VisionLanguageModel>,
        adapter: Option<Rc<Adapter>>,
        backend: Backend,
    ) -> Self {
        Self {
            model,
            adapter,
            backend,
            rows: Vec::new(),
            read: Read::One(Vec::new()),
            next: None,
            joining: Vec::new(),
            #[cfg(test)]
            logits: None,
        }
    }

    /// Returns how many answers are not complete.
    pub(crate) fn len(&self) -> usize {
        self.rows.iter().filter(|row| !row.done).count() + self.joining.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an answer of the model as `adapter` changes it, whose keys and values are kept as `how` says,
    /// can join: steps are shared by those with the same adapter that keep all of them, as they are computed.
    pub(crate) fn takes(&self, adapter: Option<&Rc<Adapter>>, how: &KvCacheOptions) -> bool {
        if self.adapter.as_ref().map(Rc::as_ptr) != adapter.map(Rc::as_ptr) {
            return false;
        }
        let rows = self.rows.iter().chain(self.joining.iter().map(|(row, ..)| row));
        let mut others = rows.filter(|row| !row.done).map(|row| row.generation.kv_cache());
        how.is_plain() && others.all(KvCacheOptions::is_plain)
    }

    /// Takes in an answer whose prompt was read.
    pub(crate) fn join(&mut self, generation: Generation, read: ReadPrompt) {
        let ReadPrompt { caches, sampler, next, delta, .. } = read;
        // A draw needs the probabilities of one token at a time.
        let lookup = generation.lookup_tokens().filter(|_| sampler.takes_likeliest());
        let lookup = lookup.map(|most| Lookup::new(generation.prompt_ids(), most));
        let row = Row { generation, sampler, delta, lookup, failure: None, done: false };
        self.joining.push((row, caches, next));
    }

    /// Makes a token of each answer; ends those that are complete or have nobody who listens.
    ///
    /// # Errors
    /// What MLX says; no answer can go on then.
    pub(crate) fn step(&mut self) -> Result<()> {
        let adapter = self.adapter.clone();
        adapter::with(adapter.as_ref(), || self.step_changed())
    }

    fn step_changed(&mut self) -> Result<()> {
        let fail = |e: mlx_rs::error::Exception| mlx_error("decode", &e);
        self.let_go();
        self.regroup().map_err(fail)?;
        if self.speculate()? || self.read_forced()? {
            return Ok(());
        }
        let Some(next) = self.next.clone() else { return Ok(()) };
        let mut spans: Vec<Span<'_>> =
            self.rows.iter().map(|row| row.generation.decode_span()).collect();
        // The step after these tokens is submitted before they are read, so that the device works
        // while the host turns them into text. What it finds for an answer that ends is thrown away.
        let logits = match self.rows.iter().all(|row| row.generation.is_last()) {
            true => None,
            false => Some(self.submit(&next).map_err(fail)?),
        };
        let mut known = None;
        if self.rows.iter().any(|row| row.sampler.is_held()) {
            // A grammar must know the token to say what may follow, which the device computes meanwhile.
            async_eval(&logits).map_err(fail)?;
            let tokens = tokens(&next)?;
            self.rows.iter_mut().zip(&tokens).for_each(|(row, &token)| row.tell(token));
            known = Some(tokens);
        }
        let samplers = self.rows.iter_mut().map(|row| &mut row.sampler);
        let following = logits.map(|logits| sampler::sample_rows(samplers, &logits));
        self.next = following.transpose().map_err(fail)?;
        async_eval(&self.next).map_err(fail)?;
        let tokens = known.map_or_else(|| tokens(&next), Ok)?;
        spans.iter_mut().for_each(|span| span.units(1));
        drop(spans);
        let read = &self.read;
        for (i, (row, token)) in self.rows.iter_mut().zip(tokens).enumerate() {
            let ends = row.sampler.ends();
            row.take(token, ends, &|| read.row(i));
        }
        Ok(())
    }

    /// Ends every answer with an error.
    pub(crate) fn fail(&mut self, error: &Error) {
        let message = error.to_string();
        let all = self.rows.drain(..).chain(self.joining.drain(..).map(|(row, ..)| row));
        for mut row in all.filter(|row| !row.done) {
            row.generation.report(Error::Mlx { op: "a batch", message: message.clone() });
        }
        (self.read, self.next) = (Read::One(Vec::new()), None);
    }

    /// Ends answers that nobody listens to; what was read of them is kept.
    fn let_go(&mut self) {
        for (i, row) in self.rows.iter_mut().enumerate().filter(|(_, row)| !row.done) {
            if row.generation.is_cancelled() {
                row.done = true;
                if let Ok(caches) = self.read.row(i) {
                    row.generation.keep_prefix(&caches);
                }
            }
        }
        // Of those who join, the prompt has been kept.
        self.joining.retain(|(row, ..)| !row.generation.is_cancelled());
    }

    /// Removes rows that are done and adds those that join.
    fn regroup(&mut self) -> MlxResult<()> {
        let stays: Vec<bool> = self.rows.iter().map(|row| !row.done).collect();
        if self.joining.is_empty() && stays.iter().all(|&stays| stays) {
            return Ok(());
        }
        let (mut joining, mut next) = (Vec::new(), Vec::new());
        // After a step that was the last of all there are no next tokens.
        next.extend(match (self.next.take(), stays.len() as i32) {
            (None, 0) => None,
            (None, rows) => Some(ops::zeros_dtype(&[rows], Dtype::Uint32)?),
            (held, _) => held,
        });
        for (row, caches, token) in self.joining.drain(..) {
            self.rows.push(row);
            joining.push(caches);
            next.push(token);
        }
        let apart = self.model.decoder().takes_sequences();
        let order = self.read.change(&stays, joining, (!apart).then_some(self.backend))?;
        if !order.is_empty() {
            let picked: Vec<i32> = order.iter().map(|&row| row as i32).collect();
            let picked = Array::from_slice(&picked, &[picked.len() as i32]);
            self.next = Some(ops::concatenate(&next, 0)?.take_axis(&picked, 0)?);
        }
        let mut rows: Vec<Option<Row>> = self.rows.drain(..).map(Some).collect();
        self.rows = order.into_iter().filter_map(|row| rows[row].take()).collect();
        self.report_memory();
        Ok(())
    }

    fn report_memory(&self) {
        match &self.read {
            Read::One(caches) => {
                let bytes = KvCache::bytes(caches);
                self.rows.iter().for_each(|row| row.generation.holds(bytes));
            }
            Read::Many(many) => self.hold(many.bytes()),
            Read::Apart(many) => self.hold(many.bytes()),
        }
    }

    /// Tells the answers how many bytes each holds.
    fn hold(&self, bytes: impl Iterator<Item = u64>) {
        self.rows.iter().zip(bytes).for_each(|(row, bytes)| row.generation.holds(bytes));
    }

    /// Returns the logits `[B, V]` after `next`, not yet computed.
    fn submit(&mut self, next: &Array) -> MlxResult<Array> {
        let hidden = match &mut self.read {
            Read::One(caches) => {
                let delta = self.rows.first().map_or(0, |row| row.delta);
                let read = caches.first().map_or(0, KvCache::offset);
                let x = self.model.embed(&next.reshape(&[1, 1])?)?;
                let hidden = self.model.forward(x, &Rotation::from(read + delta), caches)?;
                if let Some(row) = self.rows.first() {
                    KvCache::pack_if_due(caches, row.generation.kv_cache())?;
                }
                hidden.try_index((.., -1, ..))?
            }
            Read::Many(many) => {
                let positions = positions(&self.rows, many.lengths());
                many.begin_step()?;
                let hidden = forward_rows(&*self.model, next, &positions, many)?;
                many.end_step();
                hidden
            }
            Read::Apart(many) => {
                let positions = positions(&self.rows, many.lengths());
                forward_rows(&*self.model, next, &positions, many)?
            }
        };
        let logits = self.model.logits(&hidden)?;
        #[cfg(test)]
        self.logits.replace(logits.clone());
        Ok(logits)
    }
}

impl Read {
    /// Returns what was read of a row by itself.
    fn row(&self, row: usize) -> MlxResult<Vec<KvCache>> {
        match self {
            Self::One(caches) => Ok(caches.clone()),
            Self::Many(many) => many.row(row),
            Self::Apart(many) => many.row(row),
        }
    }

    /// As [`RowCaches::change`]; several share buffers as suits the device in `shared`, if they do.
    fn change(
        &mut self,
        stays: &[bool],
        mut joining: Vec<Vec<KvCache>>,
        shared: Option<Backend>,
    ) -> MlxResult<Vec<usize>> {
        let staying = stays.iter().position(|&stays| stays);
        match (self, stays.iter().filter(|&&stays| stays).count() + joining.len()) {
            (read, 0) => {
                *read = Self::One(Vec::new());
                Ok(Vec::new())
            }
            (read, 1) => {
                let only = joining.pop().map_or_else(|| read.row(staying.unwrap_or(0)), Ok)?;
                *read = Self::One(only);
                Ok(vec![staying.unwrap_or(stays.len())])
            }
            (Self::Many(many), _) => many.change(stays, joining),
            (Self::Apart(many), _) => Ok(many.change(stays, joining)),
            (read, _) => {
                let alone = match std::mem::replace(read, Self::One(Vec::new())) {
                    Self::One(caches) => staying.map(|_| caches),
                    Self::Many(_) | Self::Apart(_) => None,
                };
                // What is gone has no place in the new order.
                let gone = stays.len() - usize::from(alone.is_some());
                let all: Vec<_> = alone.into_iter().chain(joining).collect();
                let (many, order) = match shared {
                    Some(backend) => {
                        let mut many = RowCaches::new(backend);
                        let order = many.change(&[], all)?;
                        (Self::Many(many), order)
                    }
                    None => {
                        let order = (0..all.len()).collect();
                        (Self::Apart(SequenceCaches::new(all)), order)
                    }
                };
                *read = many;
                Ok(order.into_iter().map(|row| row + gone).collect())
            }
        }
    }
}

/// Returns where the next token of each of `rows`, of which as many as `lengths` were read, stands.
fn positions(rows: &[Row], lengths: impl Iterator<Item = i32>) -> Vec<i32> {
    lengths.zip(rows).map(|(length, row)| length + row.delta).collect()
}

/// Returns the hidden states `[B, E]` of the tokens `next`, one of each of several sequences at `positions`.
fn forward_rows(
    model: &dyn VisionLanguageModel,
    next: &Array,
    positions: &[i32],
    caches: &mut dyn LayerCaches,
) -> MlxResult<Array> {
    let x = model.embed(&next.reshape(&[1, -1])?)?;
    let hidden = model.forward(x, &Rotation::rows(positions), caches)?;
    hidden.reshape(&[hidden.dim(1), hidden.dim(2)])
}

/// Waits for tokens `[B]`.
fn tokens(next: &Array) -> Result<Vec<u32>> {
    let fail = |message: String| Error::Mlx { op: "decode", message };
    match next.size() {
        1 => Ok(vec![next.try_item_exact().map_err(|e| fail(e.to_string()))?]),
        _ => next.to_vec_cast().map_err(|e| fail(e.to_string())),
    }
}
