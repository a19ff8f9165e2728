//! The caches of arrays. They never leave the MLX thread, which alone can reach them.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
    ops::indexing::TryIndexOp,
};

use super::{
    ByteCache, CacheLimits, Caches,
    counters::Counters,
    digest::Digest,
    disk::DiskTier,
    prefix_tree::{BLOCK, PrefixTree, Unit},
};
use crate::kv_cache::{KvCache, KvCacheOptions};

/// Features and prefixes of one [`Caches`](super::Caches).
#[derive(Debug)]
pub(crate) struct DeviceCaches {
    features: ByteCache<Array>,
    prefixes: PrefixTree<Array>,
    keeps_prefixes: bool,
    disk: Option<Arc<DiskTier>>,
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
        [features, prefixes]: [Arc<Counters>; 2],
        disk: Option<Arc<DiskTier>>,
    ) -> Self {
        Self {
            features: ByteCache::new(limits.feature_bytes, features),
            prefixes: PrefixTree::new(limits.prefix_bytes, prefixes),
            keeps_prefixes: limits.prefix_bytes > 0,
            disk,
        }
    }

    /// Returns the features of `image` by `model`.
    pub(crate) fn features(&self, model: &Digest, image: &Digest) -> Option<Array> {
        let key = feature_key(model, image);
        let found = self.features.get(&key);
        found.or_else(|| {
            let features = self.disk.as_ref()?.get(&key)?;
            self.features.insert(key, features.clone(), features.nbytes() as u64);
            Some(features)
        })
    }

    pub(crate) fn keep_features(
        &self,
        model: &Digest,
        image: &Digest,
        features: &Array,
    ) -> MlxResult<()> {
        let key = feature_key(model, image);
        self.features.insert(key, features.clone(), features.nbytes() as u64);
        self.disk.as_ref().map_or(Ok(()), |disk| disk.put(key, features))
    }

    /// Returns the caches of `layers` layers that hold the longest beginning of `units` that
    /// `model` has read with the options `how`, and how many units that is: at most all but one,
    /// since the logits of the last are needed.
    pub(crate) fn prefix(
        &mut self,
        model: &Digest,
        units: &[Unit],
        layers: usize,
        how: &KvCacheOptions,
    ) -> MlxResult<(Vec<KvCache>, usize)> {
        if !self.keeps_prefixes {
            return Ok((KvCache::restore(layers, &[], how)?, 0));
        }
        let wanted = &units[..units.len().saturating_sub(1)];
        self.fetch_from_disk(model, wanted)?;
        let mut blocks = self.prefixes.find(model, wanted);
        let length = |blocks: &[(Array, usize)]| blocks.iter().map(|(_, used)| used).sum();
        if !how.packs(length(&blocks)) {
            // So few tokens are not packed, also where they once stood before more.
            let exact = blocks.iter().take_while(|(block, _)| !KvCache::is_packed(block)).count();
            blocks.truncate(exact);
        }
        let parts: Vec<Array> = blocks
            .iter()
            .map(|(block, used)| match block.dim(2) as usize == *used {
                true => Ok(block.clone()),
                false => block.try_index((.., .., ..*used as i32, ..)),
            })
            .collect::<MlxResult<_>>()?;
        Ok((KvCache::restore(layers, &parts, how)?, length(&blocks)))
    }

    /// Brings the whole blocks of `units` that only the disk has into the tree.
    fn fetch_from_disk(&mut self, model: &Digest, units: &[Unit]) -> MlxResult<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut fetched = self.prefixes.whole_blocks(model, units);
        let mut arrays = HashMap::new();
        for key in block_keys(model, units).skip(fetched) {
            let Some(array) = disk.get(&key) else { break };
            arrays.insert(fetched * BLOCK, array);
            fetched += 1;
        }
        if arrays.is_empty() {
            return Ok(());
        }
        self.prefixes.insert(model, &units[..fetched * BLOCK], |range| {
            // Blocks that were there at the count are there still.
            let missing = || Exception::custom("a block left the cache while others came");
            let array = arrays.remove(&range.start).ok_or_else(missing)?;
            let bytes = array.nbytes() as u64;
            Ok((array, bytes))
        })
    }

    /// Keeps what `layers` hold, the keys and values of `units`, unless some of them are gone.
    pub(crate) fn keep_prefix(
        &mut self,
        model: &Digest,
        units: &[Unit],
        layers: &[KvCache],
    ) -> MlxResult<()> {
        if !self.keeps_prefixes || !KvCache::hold_all(layers) {
            return Ok(());
        }
        let mut new = Vec::new();
        let kept: MlxResult<()> = self.prefixes.insert(model, units, |range| {
            let block = KvCache::copy_range(layers, range.clone())?;
            // Without this, it would keep the buffers that it is a copy of.
            block.eval()?;
            if range.len() == BLOCK && self.disk.is_some() {
                new.push((range.start / BLOCK, block.clone()));
            }
            let bytes = block.nbytes() as u64;
            Ok((block, bytes))
        });
        kept?;
        if let Some(disk) = self.disk.as_ref().filter(|_| !new.is_empty()) {
            let keys: Vec<Digest> = block_keys(model, units).collect();
            for (index, block) in new {
                disk.put(keys[index], &block)?;
            }
        }
        Ok(())
    }
}

/// Returns the key of each whole block, which hashes it and all before it.
fn block_keys<'a>(model: &Digest, units: &'a [Unit]) -> impl Iterator<Item = Digest> + use<'a> {
    let mut above = Digest::of("first block", &[model.bytes()]);
    units.chunks_exact(BLOCK).map(move |block| {
        let block: Vec<u8> = block.iter().flat_map(|unit| unit.to_bytes()).collect();
        above = Digest::of("block", &[above.bytes(), &block]);
        above
    })
}

fn feature_key(model: &Digest, image: &Digest) -> Digest {
    Digest::of("features", &[model.bytes(), image.bytes()])
}
