//! An answer in the making and all that goes with it.

use std::{collections::VecDeque, time::Duration};

use llm_core::{Event, EventStream, Provider, Request, Response, Result};
use perf_monitor::OperationGuard;

use crate::admission::Turn;

/// Longest time that the head of a response waits to see whether the answer begins well.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer in the making; dropping it cancels the work and lets the next request in.
pub(super) struct Answer {
    /// Events that were read already.
    early: VecDeque<Result<Event>>,
    stream: EventStream,
    turn: Turn,
    _operation: Option<OperationGuard>,
}

impl Answer {
    /// Asks `provider`.
    pub(super) async fn begin(
        provider: &dyn Provider,
        request: Request,
        turn: Turn,
        operation: Option<OperationGuard>,
    ) -> Result<Self> {
        let stream = provider.generate_stream(request).await?;
        Ok(Self { early: VecDeque::new(), stream, turn, _operation: operation })
    }

    /// Waits a while for the first text, so that an error before it is one with a status.
    ///
    /// # Errors
    /// That error.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let first = async {
            while let Some(event) = self.stream.next().await {
                let begun =
                    matches!(event, Ok(Event::Text(_) | Event::ToolCall(_) | Event::End(_)));
                self.early.push_back(Ok(event?));
                if begun {
                    break;
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, first).await.unwrap_or(Ok(()))
    }

    /// Returns the next event, or `None` after the end.
    pub(super) async fn next(&mut self) -> Option<Result<Event>> {
        let event = match self.early.pop_front() {
            Some(event) => Some(event),
            None => self.stream.next().await,
        };
        if matches!(event, Some(Ok(Event::End(_)))) {
            self.turn.complete();
        }
        event
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The error that ended it.
    pub(super) async fn collect(mut self) -> Result<Response> {
        let response = self.stream.collect().await;
        if response.is_ok() {
            self.turn.complete();
        }
        response
    }
}
