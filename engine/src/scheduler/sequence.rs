//! One sequence on its way through the engine.

use crate::batch::BLOCK_POSITIONS;
use crate::blocks::{BlockHash, BlockPool, blocks_for};
use crate::sampler::Sampler;
use crate::sequence::SequenceRequest;

/// A sequence, waiting or running.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: u64,
    pub(super) prompt_length: usize,
    pub(super) max_output_tokens: usize,
    pub(super) ignore_eos: bool,
    pub(super) sampler: Sampler,
    /// The prompt and what was generated.
    pub(super) tokens: Vec<u32>,
    /// Positions in the cache.
    pub(super) computed: usize,
    /// Most positions that were ever in the cache: what is below was computed before, or found.
    pub(super) furthest: usize,
    /// Its blocks, in the order of the positions.
    pub(super) blocks: Vec<u32>,
    /// Blocks promised and not yet taken.
    pub(super) promised: usize,
    /// Blocks that it has at its longest.
    pub(super) blocks_at_most: usize,
    /// Full blocks that have their hash, and the hash of the last of them.
    published: usize,
    hash: BlockHash,
    /// Its prompt is in the statistics of the prefix cache.
    pub(super) counted: bool,
    pub(super) finished: bool,
}

impl Sequence {
    pub(super) fn new(request: SequenceRequest, blocks_at_most: usize) -> Self {
        let prompt_length = request.prompt.len();
        let max_output_tokens = request.max_output_tokens as usize;
        let mut tokens = request.prompt;
        tokens.reserve_exact(max_output_tokens);
        Self {
            id: request.id,
            prompt_length,
            max_output_tokens,
            ignore_eos: request.ignore_eos,
            sampler: Sampler::new(request.sampling),
            tokens,
            computed: 0,
            furthest: 0,
            blocks: Vec::with_capacity(blocks_at_most),
            promised: 0,
            blocks_at_most,
            published: 0,
            hash: BlockHash::root(0),
            counted: false,
            finished: false,
        }
    }

    /// Starts with nothing in the cache.
    pub(super) fn begin(&mut self, root: BlockHash) {
        self.computed = 0;
        self.blocks.clear();
        self.published = 0;
        self.hash = root;
    }

    /// The full blocks of its tokens that another sequence may have computed; one token at least is left to compute.
    pub(super) fn shareable_blocks(&self) -> impl Iterator<Item = &[u32]> {
        self.tokens[..self.tokens.len() - 1].chunks_exact(BLOCK_POSITIONS)
    }

    /// Uses a block that holds its next positions already.
    pub(super) fn take_over(&mut self, block: u32, hash: BlockHash) {
        self.blocks.push(block);
        self.computed += BLOCK_POSITIONS;
        self.furthest = self.furthest.max(self.computed);
        self.published += 1;
        self.hash = hash;
    }

    /// Tokens of its prompt that were ever in the cache.
    pub(super) fn prompt_tokens_had(&self) -> usize {
        self.furthest.min(self.prompt_length)
    }

    /// Whether one generated token is all that is not in the cache.
    pub(super) fn decodes(&self) -> bool {
        self.tokens.len() > self.prompt_length && self.tokens.len() - self.computed == 1
    }

    /// Takes the blocks that `tokens` more positions need; `false` if there are not enough, and those that there were
    /// stay with it.
    pub(super) fn extend(&mut self, tokens: usize, pool: &mut BlockPool) -> bool {
        let needed = blocks_for(self.computed + tokens);
        while self.blocks.len() < needed {
            if self.promised > 0 {
                self.promised -= 1;
                pool.cancel(1);
            }
            let Some(block) = pool.allocate() else {
                return false;
            };
            self.blocks.push(block);
        }
        true
    }

    /// Names the blocks that have become full.
    pub(super) fn publish(&mut self, pool: &mut BlockPool) {
        if !pool.prefix_caching() {
            return;
        }
        while (self.published + 1) * BLOCK_POSITIONS <= self.computed {
            let tokens = &self.tokens[self.published * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
            self.hash = self.hash.child(tokens);
            pool.publish(self.blocks[self.published], self.hash);
            self.published += 1;
        }
    }
}
