//! A step of an answer that is alone, over all tokens about which its grammar leaves no choice.

use mlx_rs::{Array, error::Exception, ops::indexing::TryIndexOp, transforms::async_eval};

use super::{Batch, Read};
use crate::{Result, kv_cache::KvCache, nn::mlx_error, rope::Rotation};

impl Batch {
    /// Takes the tokens that must come next, if there are several; returns whether there were.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub(super) fn read_forced(&mut self) -> Result<bool> {
        let (Read::One(caches), [row]) = (&mut self.read, self.rows.as_mut_slice()) else {
            return Ok(false);
        };
        let mut said = row.sampler.ahead();
        said.truncate(row.generation.room_tokens());
        if said.len() < 2 {
            return Ok(false);
        }
        let fail = |e: Exception| mlx_error("decode", &e);
        let mut span = row.generation.decode_span();
        let read = caches.first().map_or(0, KvCache::offset);
        let logits = (|| {
            let ids = Array::from_slice(&said, &[1, said.len() as i32]);
            let x = self.model.embed(&ids)?;
            let hidden = self.model.forward(x, &Rotation::from(read + row.delta), caches)?;
            KvCache::pack_if_due(caches, row.generation.kv_cache())?;
            let logits = self.model.logits(&hidden.try_index((.., -1, ..))?)?;
            async_eval([&logits])?;
            Ok(logits)
        })();
        let logits = logits.map_err(fail)?;
        for (i, &token) in said.iter().enumerate() {
            // The first was counted when it was chosen.
            if i > 0 {
                row.sampler.count(token).map_err(fail)?;
            }
            row.tell(token);
        }
        let next = row.sampler.sample(&logits).map_err(fail)?;
        async_eval([&next]).map_err(fail)?;
        self.next = Some(next);
        span.units(said.len() as u64);
        drop(span);
        let read = &self.read;
        for (i, &token) in said.iter().enumerate() {
            let ends = i + 1 == said.len() && row.sampler.ends();
            row.take(token, ends, &|| read.row(0));
            if row.done {
                break;
            }
        }
        Ok(true)
    }
}
