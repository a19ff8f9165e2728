//! Which turns the model sees.
//!
//! Turns are left out whole and the oldest first, so a call is never parted from its result. How
//! long a turn is, the provider said when it was spoken; of what is new there is an estimate, and
//! where that is wrong the provider refuses and one more turn is left out.

use llm_core::{GenerateParams, Message, ModelInfo};

use crate::session::Turn;

/// How much of the room for old turns is used again once it was full, as a share. To leave out a
/// turn each time would change the beginning of each prompt, and what a provider keeps of it would
/// be of no use.
const REFILL: f64 = 0.75;

/// The part of a conversation that goes with the next question.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// The first turn that is sent.
    start: usize,
    /// The context that this was chosen for.
    context_tokens: Option<usize>,
}

impl Window {
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Returns how long the turns are that are sent.
    pub(crate) fn tokens(&self, turns: &[Turn]) -> usize {
        sum(&turns[self.start..])
    }

    /// There are no more than `turns` turns.
    pub(crate) fn fit(&mut self, turns: usize) {
        self.start = self.start.min(turns);
    }

    /// Leaves out the oldest turn that is left; returns whether there was one.
    pub(crate) fn drop_oldest(&mut self, turns: usize) -> bool {
        let any = self.start < turns;
        self.start += usize::from(any);
        any
    }

    /// Leaves out turns until the rest, `new` and an answer should fit into the context of `info`.
    pub(crate) fn make_room(
        &mut self,
        turns: &[Turn],
        new: &[Message],
        info: &ModelInfo,
        params: &GenerateParams,
    ) {
        if self.context_tokens != info.context_tokens {
            // Another model, which may have more room.
            *self = Self { start: 0, context_tokens: info.context_tokens };
        }
        let Some(context) = info.context_tokens else { return };
        let wanted = params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize;
        // An answer may ask for more than it will need, up to everything.
        let answer = wanted.min(context / 4);
        let room = context.saturating_sub(answer + estimate(new));
        if sum(&turns[self.start..]) <= room {
            return;
        }
        let target = (room as f64 * REFILL) as usize;
        while self.start < turns.len() && sum(&turns[self.start..]) > target {
            self.start += 1;
        }
    }
}

fn sum(turns: &[Turn]) -> usize {
    turns.iter().map(|turn| turn.tokens.unwrap_or_else(|| estimate(&turn.messages))).sum()
}

/// Four bytes of text make a token in most languages and tokenizers, and a turn has a frame.
fn estimate(messages: &[Message]) -> usize {
    let bytes = |message: &Message| {
        let calls: usize = message.tool_calls().map(|c| c.arguments_text().len()).sum();
        let results: usize = message.tool_results().map(|r| r.content.len()).sum();
        message.text().len() + calls + results
    };
    messages.iter().map(|message| bytes(message) / 4 + 8).sum()
}
