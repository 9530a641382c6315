//! The blocks of the paged key-value cache: who uses which, and what the unused ones still hold.
//!
//! A block is in use while sequences refer to it, else it is free. A free block keeps its content and its hash until it
//! is allocated again, so a later sequence with the same prefix can revive it: the free list, least recently freed block
//! first, doubles as the cache of prefixes.

mod hash;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

pub use hash::BlockHash;

use crate::batch::BLOCK_POSITIONS;

/// End of the free list.
const NONE: u32 = u32::MAX;

/// Blocks that hold `positions` positions.
pub const fn blocks_for(positions: usize) -> usize {
    positions.div_ceil(BLOCK_POSITIONS)
}

#[derive(Debug, Clone, Copy)]
struct Block {
    /// Sequences that use the block.
    references: u32,
    /// Name of the content if the block can be found by it.
    hash: Option<BlockHash>,
    /// Neighbours in the free list; meaningful while the block is free.
    previous: u32,
    next: u32,
}

/// Hands out the blocks of a cache.
///
/// Besides blocks in use there are reserved ones: promised to a sequence but not chosen yet, so that what they hold
/// stays in the cache of prefixes until they are needed.
#[derive(Debug, Clone)]
pub struct BlockPool {
    blocks: Vec<Block>,
    /// Ends of the free list: `oldest` is allocated next.
    oldest: u32,
    newest: u32,
    free: usize,
    reserved: usize,
    peak: usize,
    prefix_caching: bool,
    /// Blocks by the hash of their content. Fixed hash keys: nothing here may depend on the process.
    by_hash: HashMap<BlockHash, u32, BuildHasherDefault<DefaultHasher>>,
}

impl BlockPool {
    /// A pool of `blocks` free blocks (at most 2^32 - 1). Without `prefix_caching`, no content is ever found again.
    pub fn new(blocks: usize, prefix_caching: bool) -> Self {
        let count = u32::try_from(blocks).unwrap_or(NONE);
        let mut pool = Self {
            blocks: Vec::with_capacity(count as usize),
            oldest: NONE,
            newest: NONE,
            free: 0,
            reserved: 0,
            peak: 0,
            prefix_caching,
            // Twice the entries there can be: then the map cleans up after removals in place instead of growing.
            by_hash: HashMap::with_capacity_and_hasher(
                if prefix_caching { 2 * count as usize } else { 0 },
                BuildHasherDefault::default(),
            ),
        };
        for block in 0..count {
            pool.blocks.push(Block {
                references: 0,
                hash: None,
                previous: NONE,
                next: NONE,
            });
            pool.append_free(block);
        }
        pool
    }

    /// Blocks of the cache.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that sequences refer to.
    pub fn used(&self) -> usize {
        self.blocks.len() - self.free
    }

    /// Largest [`Self::used`] since the pool was made or [`Self::reset_peak`] was called.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Begins a new peak at what is in use now.
    pub fn reset_peak(&mut self) {
        self.peak = self.used();
    }

    /// Free blocks that are not promised to anyone.
    pub fn available(&self) -> usize {
        self.free.saturating_sub(self.reserved)
    }

    /// Whether content is found again.
    pub fn prefix_caching(&self) -> bool {
        self.prefix_caching
    }

    /// The block that holds what `hash` stands for, if it hasn't been allocated since.
    pub fn find(&self, hash: BlockHash) -> Option<u32> {
        self.by_hash.get(&hash).copied()
    }

    /// Whether no sequence refers to `block`, so that taking it needs one of the [available](Self::available) blocks.
    pub fn is_free(&self, block: u32) -> bool {
        self.blocks
            .get(block as usize)
            .is_some_and(|block| block.references == 0)
    }

    /// Refers to a block found by its hash once more. The caller has made sure that there is one
    /// [available](Self::available) if it is free.
    pub fn share(&mut self, block: u32) {
        if self.is_free(block) {
            self.remove_free(block);
        }
        if let Some(block) = self.blocks.get_mut(block as usize) {
            block.references += 1;
        }
    }

    /// Promises `count` blocks. Returns `false` and promises none if fewer are available.
    #[must_use]
    pub fn reserve(&mut self, count: usize) -> bool {
        let possible = count <= self.available();
        if possible {
            self.reserved += count;
        }
        possible
    }

    /// Takes back a promise of `count` blocks.
    pub fn cancel(&mut self, count: usize) {
        self.reserved = self.reserved.saturating_sub(count);
    }

    /// The least recently freed block, for one reference. What it held is lost. `None` if no block is available.
    #[must_use]
    pub fn allocate(&mut self) -> Option<u32> {
        if self.available() == 0 {
            return None;
        }
        let index = self.oldest;
        self.remove_free(index);
        let block = self.blocks.get_mut(index as usize)?;
        block.references = 1;
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
        }
        Some(index)
    }

    /// Says that `block` is complete and holds what `hash` stands for. Does nothing if another block is known to hold
    /// the same, or without prefix caching.
    pub fn publish(&mut self, block: u32, hash: BlockHash) {
        if !self.prefix_caching || self.by_hash.contains_key(&hash) {
            return;
        }
        if let Some(entry) = self.blocks.get_mut(block as usize)
            && entry.hash.is_none()
        {
            entry.hash = Some(hash);
            self.by_hash.insert(hash, block);
        }
    }

    /// Gives up the references of one sequence to its `blocks`. The last one is freed first: a prefix is of use without
    /// what follows it, but not the other way round.
    pub fn release(&mut self, blocks: &[u32]) {
        for &index in blocks.iter().rev() {
            let Some(block) = self.blocks.get_mut(index as usize) else {
                continue;
            };
            if block.references == 0 {
                continue;
            }
            block.references -= 1;
            if block.references == 0 {
                self.append_free(index);
            }
        }
    }

    /// Puts a block at the end of the free list that is allocated last.
    fn append_free(&mut self, index: u32) {
        let previous = self.newest;
        if let Some(block) = self.blocks.get_mut(index as usize) {
            block.previous = previous;
            block.next = NONE;
        }
        match self.blocks.get_mut(previous as usize) {
            Some(block) => block.next = index,
            None => self.oldest = index,
        }
        self.newest = index;
        self.free += 1;
    }

    /// Takes a free block out of the list, wherever it is.
    fn remove_free(&mut self, index: u32) {
        let Some(&Block { previous, next, .. }) = self.blocks.get(index as usize) else {
            return;
        };
        match self.blocks.get_mut(previous as usize) {
            Some(block) => block.next = next,
            None => self.oldest = next,
        }
        match self.blocks.get_mut(next as usize) {
            Some(block) => block.previous = previous,
            None => self.newest = previous,
        }
        self.free -= 1;
        self.peak = self.peak.max(self.used());
    }
}

#[cfg(test)]
impl BlockPool {
    /// References to each block, by block.
    pub(crate) fn references(&self) -> Vec<u32> {
        self.blocks.iter().map(|block| block.references).collect()
    }

    /// Blocks that can be found by their hash.
    pub(crate) fn published(&self) -> Vec<(BlockHash, u32)> {
        let mut published: Vec<_> = self.by_hash.iter().map(|(hash, block)| (*hash, *block)).collect();
        published.sort_unstable_by_key(|(_, block)| *block);
        published
    }

    /// Free blocks, the one that is allocated next first.
    pub(crate) fn free_list(&self) -> Vec<u32> {
        let mut list = Vec::new();
        let mut index = self.oldest;
        while let Some(block) = self.blocks.get(index as usize) {
            list.push(index);
            index = block.next;
        }
        list
    }

    /// Panics if the pool contradicts itself.
    pub(crate) fn check(&self) {
        let list = self.free_list();
        assert_eq!(list.len(), self.free, "the free list has another length than the count");
        assert!(self.reserved <= self.free, "more blocks are promised than free");
        let used = self.blocks.iter().filter(|block| block.references > 0).count();
        assert_eq!(used + self.free, self.total(), "a block is neither used nor free");
        assert!(
            list.iter().all(|&block| self.is_free(block)),
            "a used block is in the free list"
        );
        let mut backwards = Vec::new();
        let mut index = self.newest;
        while let Some(block) = self.blocks.get(index as usize) {
            backwards.push(index);
            index = block.previous;
        }
        backwards.reverse();
        assert_eq!(list, backwards, "the free list differs by direction");
        for (hash, block) in &self.by_hash {
            assert_eq!(
                self.blocks[*block as usize].hash,
                Some(*hash),
                "a hash leads to the wrong block"
            );
        }
        let hashed = self.blocks.iter().filter(|block| block.hash.is_some()).count();
        assert_eq!(hashed, self.by_hash.len(), "a block has a hash that doesn't lead to it");
    }
}

#[cfg(test)]
mod tests;
