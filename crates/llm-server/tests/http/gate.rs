//! A provider whose answers end when the test says so.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::stream;
use llm_core::{
    Capabilities, Capability, Completion, Event, EventStream, FinishReason, ModelInfo, Provider,
    Request, Result, Usage, async_trait,
};
use tokio::sync::Semaphore;

/// Says "begin ", waits until the gate is opened for it, then says "end".
#[derive(Debug)]
pub(crate) struct Gate {
    info: ModelInfo,
    open: Arc<Semaphore>,
    pub(crate) begun: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

/// Counts an answer that is dropped before its end.
struct Witness(Arc<AtomicUsize>, bool);

impl Drop for Witness {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        let capabilities = Capabilities::from_iter([Capability::Streaming]);
        Arc::new(Self {
            info: ModelInfo::new("test", "gate", capabilities),
            open: Arc::new(Semaphore::new(0)),
            begun: AtomicUsize::new(0),
            dropped: Arc::default(),
        })
    }

    /// Lets `answers` answers end.
    pub(crate) fn open(&self, answers: usize) {
        self.open.add_permits(answers);
    }

    /// Returns how many answers were dropped before their end.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Provider for Gate {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, _: Request) -> Result<EventStream> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let state = (0, self.open.clone(), Witness(self.dropped.clone(), false));
        Ok(EventStream::new(stream::unfold(state, |(step, open, mut witness)| async move {
            let event = match step {
                0 => Event::Text("begin ".to_owned()),
                1 => {
                    open.acquire().await.unwrap().forget();
                    witness.1 = true;
                    Event::Text("end".to_owned())
                }
                _ => Event::End(Completion::new(FinishReason::Stop, Usage::new(3, 2))),
            };
            Some((Ok(event), (step + 1, open, witness)))
        })))
    }
}

/// Waits until `is` holds; the test fails if that takes longer than anybody would wait.
#[track_caller]
pub(crate) fn until(what: &str, is: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed().as_secs() < 20, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
