//! Decides which sequences share a step. Pure: the same submissions give the same schedule.
//!
//! Continuous batching (Yu et al., Orca, 2022; Kwon et al., `PagedAttention`, 2023): in each step every running sequence
//! decodes a token, and what is left of the token budget goes to prompts, in the order of their arrival, in chunks.
//! A sequence is admitted when all blocks are promised to it that it can ever need, so that it never has to stop;
//! without that promise the newest one gives up its blocks when there are none left, and is computed again later.
//!
//! Static batching: a batch forms when nothing runs; all prompts are processed, then all rows decode until the last one
//! has ended.

mod sequence;

use std::collections::VecDeque;

use crate::batch::Batch;
use crate::blocks::{BlockHash, BlockPool, blocks_for};
use crate::sampler::Sampler;
use crate::sequence::{FinishReason, GeneratedToken, SequenceRequest};
use sequence::Sequence;

/// How sequences share steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// Batches that begin and end together.
    Static {
        /// Sequences of a batch at most.
        batch_size: usize,
    },
    /// Sequences join and leave at every step.
    Continuous {
        /// Sequences in the engine at once.
        max_sequences: usize,
    },
}

impl Batching {
    const fn sequences(self) -> usize {
        match self {
            Self::Static { batch_size } => batch_size,
            Self::Continuous { max_sequences } => max_sequences,
        }
    }
}

/// What a scheduler is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfiguration {
    /// How sequences share steps.
    pub batching: Batching,
    /// Tokens of a step at most; at least the number of sequences.
    pub token_budget: usize,
    /// Blocks of the key-value cache.
    pub blocks: usize,
    /// Positions of a sequence at most.
    pub context_length: usize,
    /// Whether blocks of equal beginnings are used again.
    pub prefix_caching: bool,
    /// Whether a sequence is admitted only when the blocks of its whole output are promised to it.
    pub reserve_output: bool,
}

/// Why a sequence was not accepted. The scheduler is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no room for another sequence.
    #[error("sequence {sequence} was submitted while no slot was free")]
    NoFreeSlot {
        /// The sequence's id.
        sequence: u64,
    },
    /// Nothing to process or nothing to generate.
    #[error("sequence {sequence} has an empty prompt or asks for no output")]
    Empty {
        /// The sequence's id.
        sequence: u64,
    },
    /// Prompt and output do not fit.
    #[error(
        "a prompt of {prompt_tokens} tokens with {output_tokens} tokens of output exceeds the context of {context_length}"
    )]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of output asked for.
        output_tokens: usize,
        /// Positions that a sequence may have.
        context_length: usize,
    },
    /// The sequence needs more blocks than the whole cache has.
    #[error("sequence {sequence} needs {needed} blocks of the key-value cache, which has {blocks}")]
    CacheExceeded {
        /// The sequence's id.
        sequence: u64,
        /// Blocks that it needs.
        needed: usize,
        /// Blocks of the cache.
        blocks: usize,
    },
}

/// The positions that a request takes at most: the last token of its output is never fed back, so it needs none.
///
/// # Errors
/// It has an empty prompt, asks for no output, or exceeds `context_length`.
pub fn check_request(request: &SequenceRequest, context_length: usize) -> Result<usize, SubmitError> {
    let (prompt_tokens, output_tokens) = (request.prompt.len(), request.max_output_tokens as usize);
    if prompt_tokens == 0 || output_tokens == 0 {
        return Err(SubmitError::Empty { sequence: request.id });
    }
    let positions = prompt_tokens.saturating_add(output_tokens - 1);
    if positions > context_length {
        return Err(SubmitError::ContextExceeded {
            prompt_tokens,
            output_tokens,
            context_length,
        });
    }
    Ok(positions)
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepPlan {
    /// Tokens of prompts, those that are computed again included.
    pub prefill_tokens: usize,
    /// Tokens of prompts that no step before had: those of each prompt once, whether computed or found in the cache.
    pub prompt_tokens: usize,
    /// Sequences that decode a token.
    pub decode_rows: usize,
}

/// Counts since the scheduler was made, but for the peak. Differences between two readings are a window's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerStatistics {
    /// Steps.
    pub steps: u64,
    /// Steps in which sequences decoded.
    pub decode_steps: u64,
    /// Sequences that decoded, summed over the steps.
    pub decode_rows: u64,
    /// Prompt tokens computed; neither hits nor what is computed again.
    pub prefill_tokens: u64,
    /// Tokens fed back; neither hits nor what is computed again.
    pub decode_tokens: u64,
    /// Prompt tokens looked up in the cache of prefixes: those of each sequence once.
    pub queried_tokens: u64,
    /// Prompt tokens found there.
    pub hit_tokens: u64,
    /// Times that a sequence gave up its blocks.
    pub preemptions: u64,
    /// Tokens computed again after that.
    pub recomputed_tokens: u64,
    /// Most blocks in use since [`Scheduler::reset_peak`].
    pub peak_blocks: usize,
    /// Over all static batches: sequences times the longest prompt.
    pub padded_prompt_tokens: u64,
    /// Over all static batches: tokens of the prompts.
    pub static_prompt_tokens: u64,
    /// Static batches.
    pub static_batches: u64,
}

/// A row of the step under way: which running sequence, and how many of its tokens.
#[derive(Debug, Clone, Copy)]
struct Scheduled {
    running: usize,
    tokens: usize,
    sampled: bool,
}

/// Chooses the rows of each step.
#[derive(Debug)]
pub struct Scheduler {
    configuration: SchedulerConfiguration,
    pool: BlockPool,
    root: BlockHash,
    waiting: VecDeque<Sequence>,
    /// In the order of admission.
    running: Vec<Sequence>,
    scheduled: Vec<Scheduled>,
    /// Blocks of the prefix that is being looked up.
    hits: Vec<(u32, BlockHash)>,
    statistics: SchedulerStatistics,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(configuration: SchedulerConfiguration) -> Self {
        let sequences = configuration.batching.sequences();
        Self {
            pool: BlockPool::new(configuration.blocks, configuration.prefix_caching),
            root: BlockHash::root(0),
            waiting: VecDeque::with_capacity(sequences),
            running: Vec::with_capacity(sequences),
            scheduled: Vec::with_capacity(sequences),
            hits: Vec::with_capacity(blocks_for(configuration.context_length)),
            statistics: SchedulerStatistics::default(),
            configuration,
        }
    }

    /// How many sequences can be submitted now: a static batch takes no more once it runs.
    pub fn free_sequences(&self) -> usize {
        let sequences = self.configuration.batching.sequences();
        match self.configuration.batching {
            Batching::Static { .. } if !self.running.is_empty() => 0,
            _ => sequences - self.running.len() - self.waiting.len(),
        }
    }

    /// Accepts a sequence. This takes memory; steps do not.
    ///
    /// # Errors
    /// No slot is free, nothing is asked for, or it can never fit.
    pub fn submit(&mut self, request: SequenceRequest) -> Result<(), SubmitError> {
        let sequence = request.id;
        if self.free_sequences() == 0 {
            return Err(SubmitError::NoFreeSlot { sequence });
        }
        let positions = check_request(&request, self.configuration.context_length)?;
        let needed = blocks_for(positions);
        if needed > self.pool.total() {
            return Err(SubmitError::CacheExceeded {
                sequence,
                needed,
                blocks: self.pool.total(),
            });
        }
        self.waiting.push_back(Sequence::new(request, needed));
        Ok(())
    }

    /// Fills the batch of the next step; `None` if there is nothing to do. [`Scheduler::complete`] must follow.
    pub fn schedule(&mut self, batch: &mut Batch) -> Option<StepPlan> {
        batch.clear();
        self.scheduled.clear();
        let mut plan = StepPlan::default();
        let mut budget = self.configuration.token_budget;
        match self.configuration.batching {
            Batching::Static { .. } => {
                if self.running.is_empty() {
                    self.form_static_batch(&mut plan);
                }
                self.add_prompts(batch, &mut plan, &mut budget);
                if plan.prefill_tokens == 0 {
                    self.add_decodes(batch, &mut plan, &mut budget);
                }
            }
            Batching::Continuous { max_sequences } => {
                self.add_decodes(batch, &mut plan, &mut budget);
                self.add_prompts(batch, &mut plan, &mut budget);
                while budget > 0 && self.running.len() < max_sequences && self.admit(&mut plan) {
                    self.add_prompt(self.running.len() - 1, batch, &mut plan, &mut budget);
                }
            }
        }
        if batch.rows.is_empty() {
            return None;
        }
        self.statistics.steps += 1;
        self.statistics.decode_steps += u64::from(plan.decode_rows > 0);
        self.statistics.decode_rows += plan.decode_rows as u64;
        Some(plan)
    }

    /// Chooses a token for each of the step's sampled rows, in the order of the batch: `choose` has the row, its
    /// sequence's id and its sequence's sampler.
    ///
    /// # Errors
    /// The first that `choose` gives; what it chose before is in `chosen`.
    pub fn choose<E>(
        &mut self,
        chosen: &mut Vec<u32>,
        mut choose: impl FnMut(usize, u64, &mut Sampler) -> Result<u32, E>,
    ) -> Result<(), E> {
        chosen.clear();
        for scheduled in self.scheduled.iter().filter(|scheduled| scheduled.sampled) {
            let sequence = &mut self.running[scheduled.running];
            chosen.push(choose(chosen.len(), sequence.id, &mut sequence.sampler)?);
        }
        Ok(())
    }

    /// Visits the samplers of the step's sampled rows, in the order of the batch.
    pub fn for_each_sampler(&mut self, mut visit: impl FnMut(&mut Sampler)) {
        for scheduled in self.scheduled.iter().filter(|scheduled| scheduled.sampled) {
            visit(&mut self.running[scheduled.running].sampler);
        }
    }

    /// Takes the step's results: a token for each sampled row, in the order of the batch.
    pub fn complete(&mut self, tokens: &[u32], end_of_sequence: &[u32], output: &mut Vec<GeneratedToken>) {
        let mut tokens = tokens.iter();
        for scheduled in &self.scheduled {
            let sequence = &mut self.running[scheduled.running];
            sequence.computed += scheduled.tokens;
            sequence.furthest = sequence.furthest.max(sequence.computed);
            sequence.publish(&mut self.pool);
            if !scheduled.sampled {
                continue;
            }
            let Some(token) = tokens.next() else { continue };
            sequence.tokens.push(*token);
            let finished = if !sequence.ignore_eos && end_of_sequence.contains(token) {
                Some(FinishReason::EndOfSequence)
            } else if sequence.tokens.len() == sequence.prompt_length + sequence.max_output_tokens {
                Some(FinishReason::Length)
            } else {
                None
            };
            sequence.finished = finished.is_some();
            output.push(GeneratedToken {
                sequence: sequence.id,
                token: *token,
                finished,
            });
        }
        self.scheduled.clear();
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].finished {
                let sequence = self.running.remove(index);
                self.release(&sequence);
            } else {
                index += 1;
            }
        }
    }

    /// Drops all sequences.
    pub fn abort(&mut self) {
        self.scheduled.clear();
        self.waiting.clear();
        while let Some(sequence) = self.running.pop() {
            self.release(&sequence);
        }
    }

    /// Later sequences share nothing with what was computed under another salt.
    pub fn set_salt(&mut self, salt: u64) {
        self.root = BlockHash::root(salt);
    }

    /// Begins a new peak of the blocks in use.
    pub fn reset_peak(&mut self) {
        self.pool.reset_peak();
    }

    /// Counts so far.
    pub fn statistics(&self) -> SchedulerStatistics {
        SchedulerStatistics {
            peak_blocks: self.pool.peak(),
            ..self.statistics
        }
    }

    fn release(&mut self, sequence: &Sequence) {
        self.pool.cancel(sequence.promised);
        self.pool.release(&sequence.blocks);
    }

    fn form_static_batch(&mut self, plan: &mut StepPlan) {
        while self.admit(plan) {}
        let lengths = || self.running.iter().map(|sequence| sequence.prompt_length as u64);
        let longest = lengths().max().unwrap_or_default();
        if longest > 0 {
            self.statistics.static_batches += 1;
            self.statistics.padded_prompt_tokens += longest * self.running.len() as u64;
            self.statistics.static_prompt_tokens += lengths().sum::<u64>();
        }
    }

    /// Moves the first waiting sequence to the running ones if there are blocks for it.
    fn admit(&mut self, plan: &mut StepPlan) -> bool {
        let Some(sequence) = self.waiting.front() else {
            return false;
        };
        // Without a promise for the output: what is there, and the token that comes next.
        let needed = if self.configuration.reserve_output {
            sequence.blocks_at_most
        } else {
            blocks_for(sequence.tokens.len())
        };
        self.hits.clear();
        let mut hash = self.root;
        if self.pool.prefix_caching() {
            for tokens in sequence.shareable_blocks() {
                hash = hash.child(tokens);
                let Some(block) = self.pool.find(hash) else { break };
                self.hits.push((block, hash));
            }
        }
        // A hit that nobody uses is one of the free blocks.
        let revived = self.hits.iter().filter(|(block, _)| self.pool.is_free(*block)).count();
        if self.pool.available() < needed - self.hits.len() + revived {
            return false;
        }
        let Some(mut sequence) = self.waiting.pop_front() else {
            return false;
        };
        sequence.begin(self.root);
        let had = sequence.prompt_tokens_had();
        for (block, hash) in &self.hits {
            self.pool.share(*block);
            sequence.take_over(*block, *hash);
        }
        plan.prompt_tokens += sequence.prompt_tokens_had() - had;
        sequence.promised = needed - self.hits.len();
        let promised = self.pool.reserve(sequence.promised);
        debug_assert!(promised, "the blocks were available");
        if self.pool.prefix_caching() && !sequence.counted {
            self.statistics.queried_tokens += sequence.prompt_length as u64;
            self.statistics.hit_tokens += sequence.computed as u64;
        }
        sequence.counted = true;
        self.running.push(sequence);
        true
    }

    /// Rows of the sequences that have one token to feed back.
    fn add_decodes(&mut self, batch: &mut Batch, plan: &mut StepPlan, budget: &mut usize) {
        let mut index = 0;
        while index < self.running.len() {
            if !self.running[index].decodes() || *budget == 0 {
                index += 1;
                continue;
            }
            // Those before have their rows; a sequence that gives up its blocks comes after them, or is this one.
            while !self.running[index].extend(1, &mut self.pool) {
                let newest = self.running.len() - 1;
                self.preempt();
                if newest == index {
                    return;
                }
            }
            let again = self.running[index].computed < self.running[index].furthest;
            self.push(index, 1, batch);
            plan.decode_rows += 1;
            *budget -= 1;
            if again {
                self.statistics.recomputed_tokens += 1;
            } else {
                self.statistics.decode_tokens += 1;
            }
            index += 1;
        }
    }

    /// Rows of the sequences whose prompts are not in the cache yet.
    fn add_prompts(&mut self, batch: &mut Batch, plan: &mut StepPlan, budget: &mut usize) {
        for index in 0..self.running.len() {
            if !self.running[index].decodes() {
                self.add_prompt(index, batch, plan, budget);
            }
        }
    }

    /// A row of as many tokens as the budget allows; also of the last one alone, where a sequence that came back has
    /// found all others in the cache.
    fn add_prompt(&mut self, index: usize, batch: &mut Batch, plan: &mut StepPlan, budget: &mut usize) {
        let sequence = &mut self.running[index];
        let tokens = (sequence.tokens.len() - sequence.computed).min(*budget);
        if tokens == 0 || !sequence.extend(tokens, &mut self.pool) {
            return;
        }
        let end = sequence.computed + tokens;
        let again = sequence.furthest.clamp(sequence.computed, end);
        // The last generated token of a sequence that gave up its blocks comes back with its prompt.
        let prompt_end = sequence.prompt_length.clamp(again, end);
        self.statistics.recomputed_tokens += (again - sequence.computed) as u64;
        self.statistics.prefill_tokens += (prompt_end - again) as u64;
        self.statistics.decode_tokens += (end - prompt_end) as u64;
        self.push(index, tokens, batch);
        plan.prefill_tokens += tokens;
        plan.prompt_tokens += prompt_end - again;
        *budget -= tokens;
    }

    fn push(&mut self, index: usize, tokens: usize, batch: &mut Batch) {
        let sequence = &self.running[index];
        let (start, end) = (sequence.computed, sequence.computed + tokens);
        let sampled = end == sequence.tokens.len();
        batch.push(&sequence.tokens[start..end], start, &sequence.blocks, sampled);
        self.scheduled.push(Scheduled {
            running: index,
            tokens,
            sampled,
        });
    }

    /// Takes the blocks of the newest running sequence; it is the next to be admitted.
    fn preempt(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.release(&sequence);
            sequence.promised = 0;
            self.statistics.preemptions += 1;
            self.waiting.push_front(sequence);
        }
    }
}

#[cfg(test)]
mod tests;
