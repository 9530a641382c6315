//! Mixed requests under continuous batching and in static batches of as many sequences, and what the scheduler costs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lem_engine::batch::{BLOCK_POSITIONS, Batch};
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder, DecoderConfiguration};
use lem_engine::sampler::SamplerScratch;
use lem_engine::scheduler::{Batching, Scheduler, SchedulerConfiguration};
use lem_engine::sequence::{Sampling, SequenceRequest};
use lem_engine::source::FileSource;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::contender::Weights;
use crate::measure::{file_name, median};
use crate::system;

/// Tokens of the prompts, at least and at most.
pub(crate) const PROMPT_TOKENS: std::ops::RangeInclusive<u32> = 16..=256;
/// Tokens of the outputs, at least and at most.
pub(crate) const OUTPUT_TOKENS: std::ops::RangeInclusive<u32> = 16..=128;
/// Tokens of a step at most.
const TOKEN_BUDGET: usize = 256;
/// Of the lengths and the tokens.
const SEED: u64 = 20_261_126;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// GGUF file
    #[arg(long)]
    file: PathBuf,
    /// JSON file with the results
    #[arg(long)]
    output: PathBuf,
    /// Requests of mixed lengths
    #[arg(long, default_value_t = 64)]
    requests: usize,
    /// Sequences that are computed together
    #[arg(long, default_value_t = 8)]
    sequences: usize,
    /// Times that everything is measured, alternately
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads to compute with
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// CPUs to run on, for example 0,1; all if left out
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

/// All requests once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// Wall time, s.
    pub(crate) seconds: f64,
    /// Of which in the scheduler: choosing rows, hashing blocks, taking results; not in sampling, s.
    pub(crate) scheduler_seconds: f64,
    /// Steps.
    pub(crate) steps: u64,
    /// Tokens, prompts and outputs together.
    pub(crate) tokens: u64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BatchingResults {
    /// Name of the weight file.
    pub(crate) file: String,
    /// Requests.
    pub(crate) requests: usize,
    /// Sequences that are computed together.
    pub(crate) sequences: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Static batches, round by round.
    pub(crate) static_batches: Vec<Pass>,
    /// Continuous batching, round by round.
    pub(crate) continuous: Vec<Pass>,
}

impl BatchingResults {
    /// Throughput under continuous batching divided by that in static batches, round by round.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let pairs = self.static_batches.iter().zip(&self.continuous);
        pairs
            .map(|(fixed, continuous)| fixed.seconds / continuous.seconds)
            .collect()
    }

    /// The scheduler's share of the time under continuous batching, round by round.
    pub(crate) fn scheduler_shares(&self) -> Vec<f64> {
        let share = |pass: &Pass| pass.scheduler_seconds / pass.seconds;
        self.continuous.iter().map(share).collect()
    }

    /// Reads what was measured.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} holds no results", path.display()))
    }
}

/// Measures and writes.
pub(crate) fn batching(arguments: &Arguments) -> Result<()> {
    system::pin(&arguments.cpus)?;
    let weights = Weights::open(&arguments.file)?;
    let requests = requests(arguments.requests, weights.architecture.vocabulary_size as u32);
    let (prompt, output) = (*PROMPT_TOKENS.end() as usize, *OUTPUT_TOKENS.end() as usize);
    let blocks_each = (prompt + output).div_ceil(BLOCK_POSITIONS);
    let configuration = DecoderConfiguration {
        blocks: blocks_each * arguments.sequences,
        cache_type: CacheType::F16,
        token_budget: TOKEN_BUDGET.max(arguments.sequences),
        sampled_rows: arguments.sequences,
        context_length: prompt + output,
        threads: arguments.threads,
        instruction_set: None,
        weight_type: None,
        conventions: FileSource::gguf_conventions(&weights.architecture),
    };
    let mut decoder = Decoder::new(&weights.architecture, &weights.source()?, &configuration)
        .with_context(|| format!("{} cannot be loaded", arguments.file.display()))?;
    let mut results = BatchingResults {
        file: file_name(&arguments.file)?,
        requests: arguments.requests,
        sequences: arguments.sequences,
        threads: arguments.threads,
        static_batches: Vec::new(),
        continuous: Vec::new(),
    };
    let sequences = arguments.sequences;
    let modes = [
        Batching::Static { batch_size: sequences },
        Batching::Continuous {
            max_sequences: sequences,
        },
    ];
    // The first round is cold and not kept.
    for round in 0..=arguments.rounds {
        let mut order = modes;
        order.rotate_left(round % 2);
        for batching in order {
            let pass = pass(&mut decoder, &configuration, batching, &requests)?;
            eprintln!(
                "round {round}, {batching:?}: {:.1} tok/s, scheduler {:.3} %",
                pass.tokens as f64 / pass.seconds,
                100.0 * pass.scheduler_seconds / pass.seconds
            );
            match batching {
                _ if round == 0 => {}
                Batching::Static { .. } => results.static_batches.push(pass),
                Batching::Continuous { .. } => results.continuous.push(pass),
            }
        }
    }
    eprintln!(
        "continuous / static: {:.3}",
        median(&results.ratios()).unwrap_or_default()
    );
    std::fs::write(&arguments.output, serde_json::to_vec_pretty(&results)?)
        .with_context(|| format!("{} cannot be written", arguments.output.display()))
}

/// Requests of seeded lengths and tokens.
fn requests(count: usize, vocabulary: u32) -> Vec<SequenceRequest> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    (0..count as u64)
        .map(|id| {
            let length = random.random_range(PROMPT_TOKENS);
            SequenceRequest {
                id,
                prompt: (0..length).map(|_| random.random_range(0..vocabulary)).collect(),
                max_output_tokens: random.random_range(OUTPUT_TOKENS),
                ignore_eos: true,
                sampling: Sampling::GREEDY,
            }
        })
        .collect()
}

/// Computes all requests, each submitted as soon as there is room.
fn pass(
    decoder: &mut Decoder,
    limits: &DecoderConfiguration,
    batching: Batching,
    requests: &[SequenceRequest],
) -> Result<Pass> {
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        batching,
        token_budget: limits.token_budget,
        blocks: limits.blocks,
        context_length: limits.context_length,
        prefix_caching: false,
        reserve_output: true,
    });
    let (mut batch, mut scratch) = (Batch::default(), SamplerScratch::default());
    let (mut chosen, mut output) = (Vec::new(), Vec::new());
    let mut pending = requests.iter();
    let (mut finished, mut in_scheduler) = (0, Duration::ZERO);
    let begin = Instant::now();
    loop {
        while scheduler.free_sequences() > 0
            && let Some(request) = pending.next()
        {
            scheduler.submit(request.clone())?;
        }
        let before = Instant::now();
        let plan = scheduler.schedule(&mut batch);
        in_scheduler += before.elapsed();
        if plan.is_none() {
            break;
        }
        let logits = decoder.forward(&batch)?;
        scheduler.choose(&mut chosen, |row, _, sampler| {
            sampler.sample(logits.row(row), &mut scratch)
        })?;
        let before = Instant::now();
        scheduler.complete(&chosen, &[], &mut output);
        in_scheduler += before.elapsed();
        finished += output.iter().filter(|token| token.finished.is_some()).count();
        output.clear();
    }
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(
        finished == requests.len(),
        "{finished} of {} requests ended",
        requests.len()
    );
    let tokens = |request: &SequenceRequest| request.prompt.len() as u64 + u64::from(request.max_output_tokens);
    Ok(Pass {
        seconds,
        scheduler_seconds: in_scheduler.as_secs_f64(),
        steps: scheduler.statistics().steps,
        tokens: requests.iter().map(tokens).sum(),
    })
}
