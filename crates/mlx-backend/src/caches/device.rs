//! The caches of arrays. They never leave the MLX thread, which alone can reach them.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use mlx_rs::{Array, error::Result as MlxResult};

use super::{
    ByteCache, CacheLimits, Caches,
    counters::Counters,
    digest::Digest,
    prefix_tree::{PrefixTree, Unit},
};
use crate::kv_cache::KvCache;

/// Features and prefixes of one [`Caches`](super::Caches).
#[derive(Debug)]
pub(crate) struct DeviceCaches {
    features: ByteCache<Array>,
    prefixes: PrefixTree<Array>,
    keeps_prefixes: bool,
}

thread_local! {
    /// Those of every [`Caches`] that was used; empty on all threads but that of MLX.
    static ALL: RefCell<HashMap<u64, Rc<RefCell<DeviceCaches>>>> = RefCell::default();
}

impl DeviceCaches {
    /// Returns those that belong to `caches`, new ones if there are none yet.
    pub(crate) fn of(caches: &Caches) -> Rc<RefCell<Self>> {
        ALL.with_borrow_mut(|all| {
            let new = || Rc::new(RefCell::new(caches.new_device_caches()));
            all.entry(caches.id()).or_insert_with(new).clone()
        })
    }

    /// Drops entries of the caches `id` until at most so many bytes are held.
    pub(crate) fn shrink(id: u64, feature_bytes: u64, prefix_bytes: u64) {
        let found = ALL.with_borrow(|all| all.get(&id).cloned());
        if let Some(found) = found {
            let mut found = found.borrow_mut();
            found.features.shrink_to(feature_bytes);
            found.prefixes.shrink_to(prefix_bytes);
        }
    }

    /// Drops the caches `id`.
    pub(crate) fn forget(id: u64) {
        let forgotten = ALL.with_borrow_mut(|all| all.remove(&id));
        drop(forgotten);
    }

    pub(crate) fn new(
        limits: &CacheLimits,
        features: Arc<Counters>,
        prefixes: Arc<Counters>,
    ) -> Self {
        Self {
            features: ByteCache::new(limits.feature_bytes, features),
            prefixes: PrefixTree::new(limits.prefix_bytes, prefixes),
            keeps_prefixes: limits.prefix_bytes > 0,
        }
    }

    /// Returns the features of `image` by `model`.
    pub(crate) fn features(&self, model: &Digest, image: &Digest) -> Option<Array> {
        self.features.get(&feature_key(model, image))
    }

    pub(crate) fn keep_features(&self, model: &Digest, image: &Digest, features: &Array) {
        let bytes = features.nbytes() as u64;
        self.features.insert(feature_key(model, image), features.clone(), bytes);
    }

    /// Returns the caches of `layers` layers that hold the longest beginning of `units` that
    /// `model` has read, and how many units that is: at most all but one, since the logits of the
    /// last are needed.
    pub(crate) fn prefix(
        &mut self,
        model: &Digest,
        units: &[Unit],
        layers: usize,
    ) -> MlxResult<(Vec<KvCache>, usize)> {
        if !self.keeps_prefixes {
            return Ok((KvCache::restore(layers, &[])?, 0));
        }
        use mlx_rs::ops::indexing::TryIndexOp;
        let blocks = self.prefixes.find(model, &units[..units.len().saturating_sub(1)]);
        let length = blocks.iter().map(|(_, used)| used).sum();
        let parts: Vec<Array> = blocks
            .iter()
            .map(|(block, used)| match block.dim(2) as usize == *used {
                true => Ok(block.clone()),
                false => block.try_index((.., .., ..*used as i32, ..)),
            })
            .collect::<MlxResult<_>>()?;
        Ok((KvCache::restore(layers, &parts)?, length))
    }

    /// Keeps what `layers` hold, the keys and values of `units`.
    pub(crate) fn keep_prefix(
        &mut self,
        model: &Digest,
        units: &[Unit],
        layers: &[KvCache],
    ) -> MlxResult<()> {
        if !self.keeps_prefixes {
            return Ok(());
        }
        self.prefixes.insert(model, units, |range| {
            let block = KvCache::copy_range(layers, range)?;
            // Without this, it would keep the buffers that it is a copy of.
            block.eval()?;
            let bytes = block.nbytes() as u64;
            Ok((block, bytes))
        })
    }
}

fn feature_key(model: &Digest, image: &Digest) -> Digest {
    Digest::of("features", &[model.bytes(), image.bytes()])
}
