//! A step of an answer that is alone, over the next token and a guess at those after it.

use mlx_rs::{Array, error::Exception, ops::indexing::TryIndexOp};

use super::{Batch, Read, tokens};
use crate::{Result, kv_cache::KvCache, nn::mlx_error, rope::Rotation, sampler::likeliest};

impl Batch {
    /// Makes as many tokens as a guess is right about, and one; returns whether there was a guess.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub(super) fn speculate(&mut self) -> Result<bool> {
        let fail = |e: Exception| mlx_error("decode", &e);
        let (Read::One(caches), [row], Some(next)) =
            (&mut self.read, self.rows.as_mut_slice(), &self.next)
        else {
            return Ok(false);
        };
        let Some(lookup) = row.lookup.as_mut().filter(|_| KvCache::can_shorten(caches)) else {
            return Ok(false);
        };
        // Until a guess is likely, nothing waits for the token that is being computed.
        if !lookup.is_ready() {
            return Ok(false);
        }
        let room = row.generation.room_tokens().saturating_sub(1);
        let known = tokens(next)?;
        let guess = known.first().map_or(Vec::new(), |&next| lookup.guess(next, room));
        if guess.is_empty() {
            return Ok(false);
        }
        let mut span = row.generation.decode_span();
        let said = [known.as_slice(), &guess].concat();
        let read = caches.first().map_or(0, KvCache::offset);
        let found = (|| {
            let ids = Array::from_slice(&said, &[1, said.len() as i32]);
            let x = self.model.embed(&ids)?;
            let hidden = self.model.forward(x, &Rotation::from(read + row.delta), caches)?;
            likeliest(&self.model.logits(&hidden.try_index((0, .., ..))?)?)
        })();
        let found = tokens(&found.map_err(fail)?)?;
        let right =
            guess.iter().zip(&found).take_while(|(guessed, found)| guessed == found).count();
        let made = right as i32 + 1;
        KvCache::shorten(caches, read + made);
        KvCache::pack_if_due(caches, row.generation.kv_cache()).map_err(fail)?;
        span.units(made as u64);
        drop(span);
        lookup.learn(guess.len(), right);
        row.generation.report_guess(guess.len(), right);
        self.next = found.get(right).map(|&next| Array::from_slice(&[next], &[1]));
        let read = &self.read;
        for &token in &said[..=right] {
            row.take(token, false, &|| read.row(0));
            if row.done {
                break;
            }
        }
        Ok(true)
    }
}
