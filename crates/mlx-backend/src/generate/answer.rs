//! What the tokens of an answer say: text and calls, up to its end.

use std::time::Instant;

use llm_core::{Completion, Event, FinishReason, Usage};
use perf_monitor::{Phase, Span};

use super::{Generation, Status};
use crate::{Result, caches::Unit, kv_cache::KvCache, nn::mlx_error};

impl Generation {
    /// Takes the next token, and sends what it means. Nothing may follow it if the answer `ends` with it.
    /// `caches` are its own once they are asked for.
    ///
    /// # Errors
    /// What went wrong; the caller sends it as the end of the stream.
    pub(crate) fn take(
        &mut self,
        token: u32,
        ends: bool,
        caches: &dyn Fn() -> mlx_rs::error::Result<Vec<KvCache>>,
    ) -> Result<Status> {
        let last = self.is_last();
        if let Some(timer) = &mut self.job.timer {
            timer.token();
        }
        self.first_token.get_or_insert_with(Instant::now);
        self.completion_tokens += 1;
        self.units.push(Unit::Token(token));
        let ended = match (ends, last) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        match self.read_token(token, ended)? {
            Some(reason) => self.end(reason, caches),
            None => Ok(Status::Running),
        }
    }

    /// Sends the text of `token`, with which the answer may have `ended`; returns why it ends, if it does.
    fn read_token(
        &mut self,
        token: u32,
        ended: Option<FinishReason>,
    ) -> Result<Option<FinishReason>> {
        if self.job.stop_tokens.contains(&token) {
            return self.finish(FinishReason::Stop).map(Some);
        }
        let piece = {
            let mut span = Span::enter(&*self.job.recorder, Phase::Detokenise);
            span.units(1);
            self.text.push(&self.job.tokenizer, token)?
        };
        if let Some(piece) = piece
            && self.say(&piece)
        {
            return Ok(Some(FinishReason::Stop));
        }
        ended.map(|reason| self.finish(reason)).transpose()
    }

    /// Sends `piece` as far as no stop text begins in it; returns whether one was found.
    fn say(&mut self, piece: &str) -> bool {
        let matched = self.stop.push(piece);
        self.deliver(matched.text);
        matched.stopped
    }

    /// Sends `text`, or the calls that are in it.
    fn deliver(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        match &mut self.job.calls {
            None => self.job.send(Event::Text(text)),
            Some(reader) => {
                let said = reader.push(&text);
                self.job.send_all(said);
            }
        }
    }

    /// Sends what was held back; returns why the answer ends.
    fn finish(&mut self, reason: FinishReason) -> Result<FinishReason> {
        if let Some(rest) = self.text.finish(&self.job.tokenizer)?
            && self.say(&rest)
        {
            return Ok(FinishReason::Stop);
        }
        let held = self.stop.finish();
        self.deliver(held);
        Ok(reason)
    }

    fn end(
        &mut self,
        reason: FinishReason,
        caches: &dyn Fn() -> mlx_rs::error::Result<Vec<KvCache>>,
    ) -> Result<Status> {
        self.keep_prefix(&caches().map_err(|e| mlx_error("decode", &e))?);
        let mut calls = 0;
        if let Some(mut reader) = self.job.calls.take() {
            let said = reader.finish();
            self.job.send_all(said);
            calls = reader.calls();
        }
        let reason = match reason {
            FinishReason::Stop if calls > 0 => FinishReason::ToolCalls,
            reason => reason,
        };
        let mut usage = Usage::new(self.job.prompt.ids.len(), self.completion_tokens);
        usage.image_tokens = self.job.prompt.image_tokens;
        usage.cached_tokens = self.reused;
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let completion = Completion::new(reason, usage)
            .with_times(first - self.job.started, now.saturating_duration_since(first));
        // Before the end is seen: who has seen it may ask for the report, or again, at once.
        drop((self.job.timer.take(), self.job.place.take()));
        self.job.report_memory();
        self.job.send(Event::End(completion));
        Ok(Status::Done)
    }
}
