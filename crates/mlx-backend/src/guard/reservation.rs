//! Memory that requests in the making will take and do not hold yet.
//!
//! A request is admitted by what the process holds at that moment. Of those that run already, this
//! includes what they have read so far, and not what is still to come: that is promised to them here.

use std::{
    cell::Cell,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What requests in the making hold and were promised, of all models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promised {
    /// How many there are.
    pub(crate) requests: u64,
    /// Bytes of their keys and values now.
    pub(crate) held: u64,
    /// Bytes that they will take besides.
    pub(crate) missing: u64,
}

/// The sums of all promises.
#[derive(Debug)]
pub(crate) struct Ledger {
    sums: Mutex<Promised>,
    changed: Condvar,
}

/// The one of this process.
pub(crate) static LEDGER: Ledger = Ledger::new();

impl Ledger {
    pub(crate) const fn new() -> Self {
        let sums = Promised { requests: 0, held: 0, missing: 0 };
        Self { sums: Mutex::new(sums), changed: Condvar::new() }
    }

    fn sums(&self) -> MutexGuard<'_, Promised> {
        // They are right whoever panicked.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is promised now.
    pub(crate) fn promised(&self) -> Promised {
        *self.sums()
    }

    /// Waits until something else is promised than `seen`, at most for a moment.
    pub(crate) fn wait_for_change(&self, seen: Promised) {
        const MOMENT: Duration = Duration::from_millis(100);
        let unchanged = |now: &mut Promised| *now == seen;
        drop(self.changed.wait_timeout_while(self.sums(), MOMENT, unchanged));
    }

    /// Promises memory to a request.
    pub(crate) fn promise(&'static self, promise: Promise) -> Reservation {
        let new = Reservation { ledger: self, promise: Cell::new(promise), held: Cell::new(0) };
        let mut sums = self.sums();
        sums.requests += 1;
        sums.missing = sums.missing.saturating_add(new.missing());
        new
    }
}

/// What a request will take between its turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Keys and values of the whole answer, and what is computed for each token.
    pub(crate) answer: u64,
    /// What is gone once the prompt is read.
    pub(crate) prompt: u64,
}

/// The memory that a request was promised; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: &'static Ledger,
    promise: Cell<Promise>,
    held: Cell<u64>,
}

impl Reservation {
    fn missing(&self) -> u64 {
        let Promise { answer, prompt } = self.promise.get();
        answer.saturating_sub(self.held.get()).saturating_add(prompt)
    }

    /// Says how many bytes its keys and values take now.
    pub(crate) fn holds(&self, bytes: u64) {
        self.change(|| self.held.set(bytes));
    }

    /// As [`holds`](Self::holds), once the prompt is read.
    pub(crate) fn prompt_was_read(&self, bytes: u64) {
        self.change(|| {
            self.held.set(bytes);
            self.promise.set(Promise { prompt: 0, ..self.promise.get() });
        });
    }

    fn change(&self, change: impl FnOnce()) {
        let mut sums = self.ledger.sums();
        let (held, missing) = (self.held.get(), self.missing());
        change();
        sums.held = sums.held.saturating_sub(held).saturating_add(self.held.get());
        sums.missing = sums.missing.saturating_sub(missing).saturating_add(self.missing());
        drop(sums);
        self.ledger.changed.notify_all();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut sums = self.ledger.sums();
        sums.requests = sums.requests.saturating_sub(1);
        sums.held = sums.held.saturating_sub(self.held.get());
        sums.missing = sums.missing.saturating_sub(self.missing());
        drop(sums);
        self.ledger.changed.notify_all();
    }
}
