//! Answers that are held to a form: at each step a grammar says which tokens may follow, and the sampler
//! chooses among these. What the grammar leaves no choice about is not asked of the model.
//!
//! Grammars are made and followed by the crate llguidance, on the CPU; no MLX here.

mod calls;
mod compile;
mod schema;
mod vocabulary;

use std::{collections::VecDeque, fmt};

use llguidance::{Matcher, toktrie::SimpleVob};

pub(crate) use self::compile::Grammars;
use crate::{Error, Result};

/// Most tokens that are known ahead: they are read in one step, whose memory grows with them.
const MOST_AHEAD: usize = 64;

/// How far one answer has come in its grammar.
pub(crate) struct Grammar {
    matcher: Matcher,
    /// Tokens that may follow where the grammar is now, if there is a choice.
    allowed: SimpleVob,
    /// The tokens that must come next, which the grammar has passed already.
    ahead: VecDeque<u32>,
    /// Whether nothing may follow them.
    ends: bool,
}

/// Which tokens may come next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// This one and no other.
    Only(u32),
    /// Those whose bit is set, from the lowest bit of the first word on.
    Among(&'a [u32]),
    /// None: the answer is complete.
    Nothing,
}

impl Grammar {
    /// Returns the grammar at its beginning.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot begin.
    fn new(matcher: Matcher) -> Result<Self> {
        let (allowed, ahead) = (SimpleVob::new(), VecDeque::new());
        let mut grammar = Self { matcher, allowed, ahead, ends: false };
        grammar.look()?;
        Ok(grammar)
    }

    /// Returns which tokens may come next.
    pub(crate) fn next(&self) -> Next<'_> {
        match (self.ahead.front(), self.ends) {
            (Some(&token), _) => Next::Only(token),
            (None, true) => Next::Nothing,
            (None, false) => Next::Among(self.allowed.as_slice()),
        }
    }

    /// Returns the tokens that must come next, as far as they are known.
    pub(crate) fn ahead(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ahead.iter().copied()
    }

    /// Takes the token that came, and looks what may follow it.
    ///
    /// # Errors
    /// [`Error::Output`] if the grammar became too large for its bounds, or `token` is not allowed.
    pub(crate) fn take(&mut self, token: u32) -> Result<()> {
        if self.ahead.front() == Some(&token) {
            self.ahead.pop_front();
        } else {
            self.matcher.consume_token(token).map_err(failed)?;
        }
        if self.ahead.is_empty() && !self.ends { self.look() } else { Ok(()) }
    }

    /// Looks what may follow, through all tokens about which there is no choice.
    fn look(&mut self) -> Result<()> {
        while self.ahead.len() < MOST_AHEAD {
            if self.matcher.is_stopped() {
                return self.end();
            }
            // Many at once, in the tokens that the tokenizer would make of them.
            let mut forced = self.matcher.compute_ff_tokens();
            if forced.is_empty() {
                let allowed = self.matcher.compute_mask().map_err(failed)?;
                if self.only_ends(&allowed)? {
                    return self.end();
                }
                if allowed.num_set() > 1 {
                    self.allowed = allowed;
                    return Ok(());
                }
                forced = allowed.to_list();
            }
            forced.truncate(MOST_AHEAD - self.ahead.len());
            self.matcher.consume_tokens(&forced).map_err(failed)?;
            self.ahead.extend(forced);
        }
        Ok(())
    }

    /// Whether `allowed` are tokens that end an answer, and no others.
    fn only_ends(&self, allowed: &SimpleVob) -> Result<bool> {
        let vocabulary = self.matcher.tok_env().map_err(failed)?;
        let mut others = allowed.clone();
        for &stop in vocabulary.tok_trie().eos_tokens() {
            others.disallow_token(stop);
        }
        Ok(others.is_zero())
    }

    fn end(&mut self) -> Result<()> {
        self.ends = true;
        match self.matcher.stop_reason().is_ok() {
            true => Ok(()),
            false => Err(failed(self.matcher.get_error().unwrap_or_default())),
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("next", &self.next()).finish_non_exhaustive()
    }
}

/// Returns what llguidance says, without the state that may follow it.
fn failed(error: impl fmt::Display) -> Error {
    let text = error.to_string();
    let reason = text.lines().next().unwrap_or_default();
    Error::Output(format!("the answer cannot be held to its form any more: {reason}"))
}

#[cfg(test)]
mod tests;
