//! Who may be answered now, who waits, and who is sent away.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    error::{ApiError, ApiResult},
    options::ServerOptions,
};

/// Counts who is inside.
#[derive(Debug)]
pub(crate) struct Admission {
    /// One for each request that is answered or waits.
    seats: Arc<Semaphore>,
    /// One for each answer in the making; first come, first served.
    turns: Arc<Semaphore>,
    max_running: usize,
    max_seats: usize,
    max_wait: Duration,
    /// How long an answer takes, in seconds: a mean that forgets.
    answer_seconds: Mutex<Option<f64>>,
    cancelled: AtomicU64,
}

/// A request that may wait for its turn.
#[derive(Debug)]
pub(crate) struct Seat(OwnedSemaphorePermit);

/// A request that may be answered; the turn ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    admission: Arc<Admission>,
    began: Instant,
    complete: bool,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Admission {
    pub(crate) fn new(options: &ServerOptions) -> Self {
        let max_running = options.max_running.clamp(1, Semaphore::MAX_PERMITS / 2);
        let max_seats = max_running + options.max_waiting.min(Semaphore::MAX_PERMITS / 2);
        Self {
            seats: Arc::new(Semaphore::new(max_seats)),
            turns: Arc::new(Semaphore::new(max_running)),
            max_running,
            max_seats,
            max_wait: options.max_wait,
            answer_seconds: Mutex::default(),
            cancelled: AtomicU64::new(0),
        }
    }

    /// Gives a request a seat, before its body is read: bodies are what takes memory.
    pub(crate) fn enter(&self) -> ApiResult<Seat> {
        self.check_open()?;
        self.seats.clone().try_acquire_owned().map(Seat).map_err(|_| {
            let waiting = self.max_seats - self.max_running;
            let message = format!(
                "the server is busy: {} answers are being made and {waiting} requests wait",
                self.max_running
            );
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, message)
                .with_code("queue_full")
                .with_retry_after(self.time_for_a_seat())
        })
    }

    /// Waits for the turn of `seat`.
    pub(crate) async fn turn(self: &Arc<Self>, seat: Seat) -> ApiResult<Turn> {
        let turn = tokio::time::timeout(self.max_wait, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| {
            let seconds = self.max_wait.as_secs_f64();
            let message = format!("the server is busy: no turn within {seconds} s");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
                .with_code("queue_timeout")
                .with_retry_after(self.time_for_a_seat())
        })?;
        let turn = turn.map_err(|_| stopping())?;
        Ok(Turn {
            admission: self.clone(),
            began: Instant::now(),
            complete: false,
            _permits: [seat.0, turn],
        })
    }

    /// Sends away who waits, and who comes from now on.
    pub(crate) fn close(&self) {
        self.turns.close();
    }

    /// # Errors
    /// If the server takes no requests any more.
    pub(crate) fn check_open(&self) -> ApiResult<()> {
        if self.turns.is_closed() { Err(stopping()) } else { Ok(()) }
    }

    pub(crate) fn running(&self) -> usize {
        self.max_running.saturating_sub(self.turns.available_permits())
    }

    pub(crate) fn waiting(&self) -> usize {
        (self.max_seats - self.seats.available_permits()).saturating_sub(self.running())
    }

    /// Returns how many answers nobody waited for to the end.
    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Returns how long it should take until somebody leaves, from a second to a minute.
    fn time_for_a_seat(&self) -> Duration {
        let mean = *self.answer_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(mean.unwrap_or(1.0).clamp(1.0, 60.0))
    }
}

impl Turn {
    /// Says that the answer came to its end.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.complete {
            self.admission.cancelled.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let mut mean = self.admission.answer_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        *mean = Some(mean.map_or(seconds, |mean| 0.8 * mean + 0.2 * seconds));
    }
}

fn stopping() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is being stopped")
        .with_code("shutting_down")
}
