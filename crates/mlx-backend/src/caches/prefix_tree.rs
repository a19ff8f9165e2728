//! Beginnings of prompts that were read before, as a tree whose branches are shared.
//!
//! A prompt is a sequence of [`Unit`]s: tokens, and features of images by the content of the image.
//! The tree holds it in blocks of [`BLOCK`] units, each below the one before it, so that prompts
//! with the same beginning share its blocks and part where they differ. A value (keys and values of
//! the block) depends on the units of its block and of all blocks above, and on nothing else.
//!
//! Leaves leave first, in the order of their last use: a block without those above it is no use.
//! Compare the paged cache of vLLM (arXiv:2309.06180) and the radix tree of `SGLang`
//! (arXiv:2312.07104).

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use super::{counters::Counters, digest::Digest};

/// Units of a block: the finer, the less is read again where prompts part within a block, and the
/// more arrays there are to join.
pub(crate) const BLOCK: usize = 64;

/// One position of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A token of text.
    Token(u32),
    /// Feature `index` of the image with the key `image`.
    Feature { image: Digest, index: u32 },
}

impl Unit {
    /// Returns bytes that differ for units that differ.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::Token(id) => [&[0][..], &id.to_le_bytes()].concat(),
            Self::Feature { image, index } => {
                [&[1][..], image.bytes(), &index.to_le_bytes()].concat()
            }
        }
    }
}

type NodeId = usize;

#[derive(Debug)]
struct Node<V> {
    parent: NodeId,
    units: Vec<Unit>,
    value: V,
    bytes: u64,
    children: Vec<NodeId>,
    last_use: u64,
}

/// The tree; `V` is what is kept of a block.
#[derive(Debug)]
pub(crate) struct PrefixTree<V> {
    nodes: Vec<Option<Node<V>>>,
    free: Vec<NodeId>,
    /// The first blocks, by the model that read them.
    roots: HashMap<Digest, Vec<NodeId>>,
    /// Leaves by their last use.
    leaves: BTreeSet<(u64, NodeId)>,
    clock: u64,
    bytes: u64,
    limit: u64,
    counters: Arc<Counters>,
}

/// The parent of first blocks.
const NO_NODE: NodeId = usize::MAX;

impl<V: Clone> PrefixTree<V> {
    /// Returns an empty tree of at most `limit` bytes.
    pub(crate) fn new(limit: u64, counters: Arc<Counters>) -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            clock: 0,
            bytes: 0,
            limit,
            counters,
        }
    }

    /// Finds the longest beginning of `units` that `model` has read, and returns its blocks in
    /// order, each with how many of its units are part of it; only the last may be used in part.
    pub(crate) fn find(&mut self, model: &Digest, units: &[Unit]) -> Vec<(V, usize)> {
        let mut found = Vec::new();
        let (mut at, mut node) = (0, NO_NODE);
        while at < units.len() {
            let rest = &units[at..];
            let best = self
                .children(model, node)
                .iter()
                .map(|&child| (common(&self.node(child).units, rest), child))
                .max_by_key(|&(length, _)| length);
            let Some((length, child)) = best.filter(|&(length, _)| length > 0) else { break };
            self.touch(child);
            found.push((self.node(child).value.clone(), length));
            if length < BLOCK {
                break;
            }
            (at, node) = (at + length, child);
        }
        self.counters.lookup(!found.is_empty());
        found
    }

    /// Returns how many whole blocks from the first of `units` on are here; counts and touches
    /// nothing.
    pub(crate) fn whole_blocks(&self, model: &Digest, units: &[Unit]) -> usize {
        let mut node = NO_NODE;
        for (count, block) in units.chunks_exact(BLOCK).enumerate() {
            let same = |&&child: &&NodeId| self.node(child).units == block;
            match self.children(model, node).iter().find(same) {
                Some(&child) => node = child,
                None => return count,
            }
        }
        units.len() / BLOCK
    }

    /// Adds what is new of `units`; `make` returns the value and the bytes of a range of them.
    ///
    /// # Errors
    /// What `make` says; the blocks before stay.
    pub(crate) fn insert<E>(
        &mut self,
        model: &Digest,
        units: &[Unit],
        mut make: impl FnMut(Range<usize>) -> Result<(V, u64), E>,
    ) -> Result<(), E> {
        let mut parent = NO_NODE;
        for start in (0..units.len()).step_by(BLOCK) {
            let block = &units[start..units.len().min(start + BLOCK)];
            let holds = |&&child: &&NodeId| self.node(child).units.starts_with(block);
            if let Some(&child) = self.children(model, parent).iter().find(holds) {
                self.touch(child);
                parent = child;
                continue;
            }
            let (value, bytes) = make(start..start + block.len())?;
            // What it would push out must not be the blocks that it stands on.
            if self.bytes_above(parent) + bytes + size_of_val(block) as u64 > self.limit {
                self.counters.refuse();
                break;
            }
            // A shorter block that this one begins with is of no more use.
            let outgrown = |&&child: &&NodeId| block.starts_with(&self.node(child).units);
            if let Some(&child) = self.children(model, parent).iter().find(outgrown) {
                self.remove(child);
            }
            parent = self.add(model, parent, block.to_vec(), value, bytes);
            self.evict(self.limit);
        }
        self.update();
        Ok(())
    }

    /// Drops leaves until at most `bytes` are held.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        self.evict(bytes);
        self.update();
    }

    fn evict(&mut self, most_bytes: u64) {
        while self.bytes > most_bytes {
            let Some(&(_, leaf)) = self.leaves.first() else { break };
            self.remove(leaf);
            self.counters.evict(1);
        }
    }

    fn add(
        &mut self,
        model: &Digest,
        parent: NodeId,
        units: Vec<Unit>,
        value: V,
        bytes: u64,
    ) -> NodeId {
        self.clock += 1;
        let bytes = bytes + size_of_val(&units[..]) as u64;
        let node = Node { parent, units, value, bytes, children: Vec::new(), last_use: self.clock };
        let id = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[id] = Some(node);
        self.leaves.insert((self.clock, id));
        self.bytes += bytes;
        match parent {
            NO_NODE => self.roots.entry(*model).or_default().push(id),
            _ => {
                let parent_use = self.node(parent).last_use;
                self.leaves.remove(&(parent_use, parent));
                self.node_mut(parent).children.push(id);
            }
        }
        id
    }

    /// Takes a leaf out.
    fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes[id].take() else { return };
        self.leaves.remove(&(node.last_use, id));
        self.bytes -= node.bytes;
        self.free.push(id);
        if node.parent == NO_NODE {
            self.roots.retain(|_, firsts| {
                firsts.retain(|&first| first != id);
                !firsts.is_empty()
            });
            return;
        }
        let parent = self.node_mut(node.parent);
        parent.children.retain(|&child| child != id);
        if parent.children.is_empty() {
            let last_use = parent.last_use;
            self.leaves.insert((last_use, node.parent));
        }
    }

    fn touch(&mut self, id: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        let node = self.node_mut(id);
        let before = std::mem::replace(&mut node.last_use, clock);
        if self.leaves.remove(&(before, id)) {
            self.leaves.insert((clock, id));
        }
    }

    fn bytes_above(&self, mut id: NodeId) -> u64 {
        let mut bytes = 0;
        while id != NO_NODE {
            bytes += self.node(id).bytes;
            id = self.node(id).parent;
        }
        bytes
    }

    fn children(&self, model: &Digest, id: NodeId) -> &[NodeId] {
        match id {
            NO_NODE => self.roots.get(model).map_or(&[], Vec::as_slice),
            _ => &self.node(id).children,
        }
    }

    fn node(&self, id: NodeId) -> &Node<V> {
        self.nodes[id].as_ref().expect("ids of removed nodes are in no list")
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<V> {
        self.nodes[id].as_mut().expect("ids of removed nodes are in no list")
    }

    fn update(&self) {
        self.counters.holds((self.nodes.len() - self.free.len()) as u64, self.bytes);
    }
}

fn common(a: &[Unit], b: &[Unit]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a block: the units that it was made from, all of them from the first on.
    type History = Vec<Unit>;

    fn model() -> Digest {
        Digest::of("model", &[])
    }

    fn text(ids: impl IntoIterator<Item = u32>) -> Vec<Unit> {
        ids.into_iter().map(Unit::Token).collect()
    }

    fn tree(limit: u64) -> PrefixTree<History> {
        PrefixTree::new(limit, Arc::default())
    }

    fn insert(tree: &mut PrefixTree<History>, units: &[Unit]) -> usize {
        let mut made = 0;
        let done: Result<(), ()> = tree.insert(&model(), units, |range| {
            made += range.len();
            Ok((units[..range.end].to_vec(), 10))
        });
        done.unwrap();
        made
    }

    /// Looks `units` up, checks that every block was made from the same beginning, and returns how
    /// long it is.
    fn find(tree: &mut PrefixTree<History>, units: &[Unit]) -> usize {
        let mut at = 0;
        for (history, length) in tree.find(&model(), units) {
            let start = history.len().saturating_sub(1) / BLOCK * BLOCK;
            assert_eq!(at, start, "blocks follow each other");
            assert_eq!(history[..start + length], units[..start + length]);
            at += length;
        }
        at
    }

    #[test]
    fn the_longest_common_beginning_is_found_to_the_unit() {
        let mut tree = tree(1 << 20);
        let first = text(0..200);
        assert_eq!(find(&mut tree, &first), 0);
        assert_eq!(insert(&mut tree, &first), 200);
        assert_eq!(find(&mut tree, &first), 200);
        for shared in [0, 1, 63, 64, 65, 128, 150, 199] {
            let mut other = first.clone();
            other[shared] = Unit::Token(9999);
            assert_eq!(find(&mut tree, &other), shared);
            assert_eq!(find(&mut tree, &first[..shared]), shared);
        }
        assert_eq!(find(&mut tree, &text(0..300)), 200);
    }

    #[test]
    fn what_is_shared_is_made_once_and_what_grows_replaces_its_end() {
        let mut tree = tree(1 << 20);
        insert(&mut tree, &text(0..100));
        // 36 units of the second block were there; the block is made anew, since it grew.
        assert_eq!(insert(&mut tree, &text(0..150)), 64 + 22);
        assert_eq!(insert(&mut tree, &text(0..150)), 0);
        assert_eq!(insert(&mut tree, &text(0..90)), 0);
        assert_eq!(tree.counters.stats(0).entries, 3);
        let branch: Vec<Unit> = text((0..64).chain(500..564));
        assert_eq!(insert(&mut tree, &branch), 64);
        assert_eq!(find(&mut tree, &branch), 128);
        assert_eq!(find(&mut tree, &text(0..150)), 150);
    }

    #[test]
    fn images_are_told_apart_by_content_and_models_share_nothing() {
        let image = |name: &str| {
            let image = Digest::of("image", &[name.as_bytes()]);
            (0..50).map(move |index| Unit::Feature { image, index })
        };
        let prompt = |name: &str| text(0..10).into_iter().chain(image(name)).collect::<Vec<_>>();
        let mut tree = tree(1 << 20);
        insert(&mut tree, &prompt("cat"));
        assert_eq!(find(&mut tree, &prompt("cat")), 60);
        assert_eq!(find(&mut tree, &prompt("dog")), 10);
        let other = Digest::of("other model", &[]);
        assert!(tree.find(&other, &prompt("cat")).is_empty());
    }

    #[test]
    fn leaves_leave_first_and_the_limit_holds() {
        let block_bytes = 10 + (BLOCK * size_of::<Unit>()) as u64;
        let mut tree = tree(4 * block_bytes);
        let (a, b) = (text(0..192), text(1000..1064));
        insert(&mut tree, &a);
        insert(&mut tree, &b);
        assert_eq!((find(&mut tree, &b), find(&mut tree, &a)), (64, 192));
        // One block too many: `b` was used before `a`.
        insert(&mut tree, &text(2000..2064));
        assert_eq!((find(&mut tree, &b), find(&mut tree, &a)), (0, 192));
        find(&mut tree, &text(2000..2064));
        // Of `a`, the end goes and the beginning stays.
        insert(&mut tree, &text(3000..3064));
        assert_eq!(find(&mut tree, &a), 128);
        tree.shrink_to(block_bytes);
        let stats = tree.counters.stats(0);
        assert_eq!((stats.entries, stats.bytes), (1, block_bytes));
        tree.shrink_to(0);
        assert_eq!((tree.roots.len(), tree.leaves.len(), tree.bytes), (0, 0, 0));
    }

    #[test]
    fn a_prompt_larger_than_the_limit_keeps_its_beginning() {
        let block_bytes = 10 + (BLOCK * size_of::<Unit>()) as u64;
        let mut tree = tree(2 * block_bytes);
        let units = text(0..640);
        insert(&mut tree, &units);
        assert_eq!(find(&mut tree, &units), 128);
        assert_eq!(tree.counters.stats(0).refused, 1);
    }

    /// Thousands of random conversations against a plain search through all that was inserted.
    #[test]
    fn it_agrees_with_a_search_through_everything() {
        let mut state = 1u64;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % n
        };
        let mut tree = tree(u64::MAX);
        let mut seen: Vec<Vec<Unit>> = Vec::new();
        for _ in 0..2000 {
            let mut units = match random(3) {
                0 => Vec::new(),
                _ if seen.is_empty() => Vec::new(),
                _ => {
                    let old = &seen[random(seen.len() as u64) as usize];
                    old[..random(old.len() as u64 + 1) as usize].to_vec()
                }
            };
            units.extend((0..random(150)).map(|_| Unit::Token(random(3) as u32)));
            let expected = seen.iter().map(|old| common(old, &units)).max().unwrap_or(0);
            let found = find(&mut tree, &units);
            assert_eq!(found, expected);
            insert(&mut tree, &units);
            seen.push(units);
        }
    }
}
