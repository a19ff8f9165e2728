//! Ctrl-C: the first stops an answer, any other ends the program at once.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
};

use abstractllm::{Event, EventStream, Result};
use futures_core::Stream;
use futures_executor::block_on;
use futures_util::task::AtomicWaker;
use signal_hook::{consts::SIGINT, iterator::Signals, low_level};

/// The exit code of a program that SIGINT ended, as shells report it.
const EXIT_CODE: i32 = 130;

/// Listens for Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupts(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether there is an answer to stop.
    answering: AtomicBool,
    hit: AtomicBool,
    waker: AtomicWaker,
}

/// What came first.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Result<Event>),
    Interrupted,
}

impl Interrupts {
    /// Starts to listen.
    ///
    /// # Errors
    /// If the system refuses a signal handler or a thread.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT])?;
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                of_thread.interrupt();
            }
        })?;
        Ok(Self(shared))
    }

    /// From here on the first Ctrl-C stops the answer instead of the program.
    pub(crate) fn begin_answer(&self) {
        self.0.hit.store(false, Ordering::SeqCst);
        self.0.answering.store(true, Ordering::SeqCst);
    }

    /// From here on Ctrl-C ends the program again.
    pub(crate) fn end_answer(&self) {
        self.0.answering.store(false, Ordering::SeqCst);
    }

    /// Waits for `work` or Ctrl-C, which drops it and returns `None`.
    pub(crate) fn race<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        block_on(poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            match self.0.hit.load(Ordering::SeqCst) {
                true => Poll::Ready(None),
                false => work.as_mut().poll(cx).map(Some),
            }
        }))
    }

    /// Waits for the next event or Ctrl-C; `None` after the end.
    pub(crate) fn next(&self, stream: &mut EventStream) -> Option<Next> {
        block_on(poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            if self.0.hit.load(Ordering::SeqCst) {
                return Poll::Ready(Some(Next::Interrupted));
            }
            Pin::new(&mut *stream).poll_next(cx).map(|event| event.map(Next::Event))
        }))
    }
}

impl Shared {
    fn interrupt(&self) {
        if !self.answering.load(Ordering::SeqCst) || self.hit.swap(true, Ordering::SeqCst) {
            // Loading cannot be stopped half-way, and running destructors could take long.
            low_level::exit(EXIT_CODE);
        }
        self.waker.wake();
    }
}
