//! What an answer is made from, and where what is said of it goes.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc::SyncSender},
    time::Instant,
};

use llm_core::{Event, GenerateParams, Result as CoreResult};
use perf_monitor::{Gauge, GenerationTimer, Recorder};
use tokio::sync::{OwnedSemaphorePermit, mpsc::UnboundedSender};

use crate::{
    caches::{Caches, Digest},
    calls::{CallReader, Said},
    engine::LoadedAdapter,
    grammar::Grammar,
    guard::Reservation,
    kv_cache::KvCacheOptions,
    prompt::Prompt,
    tokenizer::Tokenizer,
};

/// A request as the engine takes it: everything is owned, so that it can change threads.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prompt: Prompt,
    /// Receives the numbers of the images whose patches are needed.
    pub(crate) wanted: SyncSender<Vec<usize>>,
    /// The identity of the model, as its adapter changes it, for keys of prefixes.
    pub(crate) model: Digest,
    /// The identity of what makes features of images, for keys of those.
    pub(crate) tower: Digest,
    /// What changes the model for this answer.
    pub(crate) adapter: Option<Arc<LoadedAdapter>>,
    pub(crate) caches: Arc<Caches>,
    /// How keys and values are kept.
    pub(crate) kv_cache: KvCacheOptions,
    /// Most tokens of a guess at what follows; 0 makes none.
    pub(crate) prompt_lookup_tokens: usize,
    pub(crate) params: GenerateParams,
    /// What the answer is held to, if it has a form.
    pub(crate) grammar: Option<Grammar>,
    /// Tells calls from text, if there may be calls.
    pub(crate) calls: Option<CallReader>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) stop_tokens: Arc<BTreeSet<u32>>,
    pub(crate) prefill_step_tokens: usize,
    /// Most answers of the model that are made at a time.
    pub(crate) max_batch: usize,
    /// Its place among the requests in flight; dropping it makes room for another.
    pub(crate) place: Option<OwnedSemaphorePermit>,
    /// The memory that it was promised.
    pub(crate) reservation: Reservation,
    pub(crate) events: UnboundedSender<CoreResult<Event>>,
    pub(crate) recorder: Arc<dyn Recorder>,
    /// Reports the generation when it is taken out, or dropped with the job.
    pub(crate) timer: Option<GenerationTimer>,
    pub(crate) started: Instant,
}

impl Job {
    /// Sends an event; a stream that nobody reads any more is noticed at the next step.
    pub(super) fn send(&self, event: Event) {
        let _ = self.events.send(Ok(event));
    }

    pub(super) fn send_all(&self, said: Vec<Said>) {
        for said in said {
            self.send(match said {
                Said::Text(text) => Event::Text(text),
                Said::Call(call) => Event::ToolCall(call),
            });
        }
    }

    pub(super) fn report_memory(&self) {
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
