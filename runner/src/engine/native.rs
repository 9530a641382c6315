//! lem's own engine: static and continuous batching over a paged key-value cache.

mod device;
mod load;
mod mapped_file;
mod synthetic;

use lem_engine::{
    batch::{BLOCK_POSITIONS, Batch},
    decoder::DecoderConfiguration,
    scheduler::{Scheduler, SchedulerConfiguration},
    sequence::{GeneratedToken, SequenceRequest},
};

use super::{
    Batching, BlockCounts, Engine, EngineConfiguration, EngineDescription, EngineError, ExecutionCounts,
    StaticBatchCounts, StepKind, TextTokenizer,
};
use device::DeviceDecoder;
use lem_crds::experiment::PrefixCaching;

pub use mapped_file::MappedFile;

/// Tokens of a step under static batching: as many of a prompt as fit are processed at once.
const STATIC_TOKEN_BUDGET: usize = 512;

/// Runs models of the llama family.
pub struct NativeEngine {
    decoder: DeviceDecoder,
    /// What the decoder was built for, but for the limits of the current configuration.
    configuration: DecoderConfiguration,
    scheduler: Scheduler,
    batching: Batching,
    description: EngineDescription,
    tokenizer: Option<TextTokenizer>,
    end_of_sequence: Vec<u32>,
    batch: Batch,
    chosen: Vec<u32>,
    steps: u64,
}

impl std::fmt::Debug for NativeEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NativeEngine")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// What a configuration asks of the decoder and the scheduler. Pure.
fn limits(
    configuration: &EngineConfiguration,
    context_length: usize,
    decoder: DecoderConfiguration,
) -> (DecoderConfiguration, SchedulerConfiguration) {
    let positions = configuration.sequence_positions.clamp(1, context_length);
    let blocks_each = positions.div_ceil(BLOCK_POSITIONS);
    let (batching, sequences, budget, blocks, prefix_caching) = match &configuration.batching {
        Batching::Static(batching) => {
            let sequences = batching.batch_size as usize;
            let batching = lem_engine::scheduler::Batching::Static { batch_size: sequences };
            (batching, sequences, STATIC_TOKEN_BUDGET, None, false)
        }
        Batching::Continuous(batching) => {
            let sequences = batching.max_sequences as usize;
            let prefix_caching = batching.prefix_caching != PrefixCaching::Disabled;
            let blocks = batching.kv_cache_blocks.map(|blocks| blocks as usize);
            let budget = batching.token_budget as usize;
            let batching = lem_engine::scheduler::Batching::Continuous {
                max_sequences: sequences,
            };
            (batching, sequences, budget, blocks, prefix_caching)
        }
    };
    // Every running sequence decodes in every step.
    let budget = budget.max(sequences);
    let blocks = blocks.unwrap_or(sequences * blocks_each);
    let decoder = DecoderConfiguration {
        blocks,
        token_budget: budget,
        sampled_rows: sequences,
        context_length: positions,
        ..decoder
    };
    let scheduler = SchedulerConfiguration {
        batching,
        token_budget: budget,
        blocks,
        context_length: positions,
        prefix_caching,
        reserve_output: true,
    };
    (decoder, scheduler)
}

impl Engine for NativeEngine {
    fn description(&self) -> &EngineDescription {
        &self.description
    }

    fn tokenizer(&self) -> Option<&TextTokenizer> {
        self.tokenizer.as_ref()
    }

    fn free_sequences(&self) -> usize {
        self.scheduler.free_sequences()
    }

    fn submit(&mut self, request: SequenceRequest) -> Result<(), EngineError> {
        self.description.check_tokens(&request.prompt)?;
        Ok(self.scheduler.submit(request)?)
    }

    fn configure(&mut self, configuration: &EngineConfiguration) -> Result<(), EngineError> {
        let (decoder, scheduler) = limits(configuration, self.description.context_length, self.configuration);
        if decoder != self.configuration {
            self.decoder.reconfigure(&decoder)?;
            self.configuration = decoder;
        }
        self.scheduler = Scheduler::new(scheduler);
        self.batching = configuration.batching.clone();
        self.chosen = Vec::with_capacity(decoder.sampled_rows);
        Ok(())
    }

    fn begin_window(&mut self, salt: Option<u64>) {
        self.scheduler.reset_peak();
        if let Some(salt) = salt {
            self.scheduler.set_salt(salt);
        }
    }

    fn step(&mut self, output: &mut Vec<GeneratedToken>) -> Result<StepKind, EngineError> {
        let Some(plan) = self.scheduler.schedule(&mut self.batch) else {
            return Ok(StepKind::Idle);
        };
        self.decoder.step(&self.batch, &mut self.scheduler, &mut self.chosen)?;
        self.scheduler.complete(&self.chosen, &self.end_of_sequence, output);
        self.steps += 1;
        Ok(plan.into())
    }

    fn counts(&self) -> ExecutionCounts {
        let statistics = self.scheduler.statistics();
        let work = self.decoder.counts();
        let static_batches = matches!(self.batching, Batching::Static(_)).then_some(StaticBatchCounts {
            steps: statistics.decode_steps,
            rows: statistics.decode_rows,
            padded_tokens: statistics.padded_prompt_tokens,
            real_tokens: statistics.static_prompt_tokens,
        });
        let caches_prefixes = matches!(&self.batching, Batching::Continuous(batching) if batching.prefix_caching != PrefixCaching::Disabled);
        ExecutionCounts {
            flops: work.flops,
            bytes: Some(work.bytes),
            prefill_tokens: statistics.prefill_tokens,
            decode_tokens: statistics.decode_tokens,
            steps: self.steps,
            kv_cache_bytes_peak: statistics.peak_blocks as u64 * self.decoder.block_bytes() as u64,
            static_batches,
            blocks: Some(BlockCounts {
                total: self.configuration.blocks as u64,
                peak_used: statistics.peak_blocks as u64,
                queried_tokens: caches_prefixes.then_some(statistics.queried_tokens),
                hit_tokens: caches_prefixes.then_some(statistics.hit_tokens),
            }),
        }
    }

    fn synchronize(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn abort(&mut self) {
        self.scheduler.abort();
    }
}

#[cfg(test)]
mod tests;
