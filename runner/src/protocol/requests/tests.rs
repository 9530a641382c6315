use std::convert::Infallible;

use lem_engine::{
    batch::Batch,
    scheduler::{Batching, Scheduler, SchedulerConfiguration},
};

use super::*;
use crate::engine::{EngineConfiguration, EngineDescription, ExecutionCounts, Sampling, TextTokenizer};

const END_OF_SEQUENCE: u32 = 7;

/// The scheduler of lem's own engine, without a model: each request has an output of the length that is set for it.
struct Scripted {
    scheduler: Scheduler,
    batch: Batch,
    chosen: Vec<u32>,
    lengths: Vec<u64>,
    generated: Vec<u64>,
}

impl Scripted {
    fn new(configuration: SchedulerConfiguration, lengths: &[u64]) -> Self {
        Self {
            scheduler: Scheduler::new(configuration),
            batch: Batch::default(),
            chosen: Vec::new(),
            lengths: lengths.to_vec(),
            generated: vec![0; lengths.len()],
        }
    }
}

impl Engine for Scripted {
    fn description(&self) -> &EngineDescription {
        unreachable!("requests run without it")
    }

    fn tokenizer(&self) -> Option<&TextTokenizer> {
        None
    }

    fn free_sequences(&self) -> usize {
        self.scheduler.free_sequences()
    }

    fn submit(&mut self, request: SequenceRequest) -> Result<(), EngineError> {
        Ok(self.scheduler.submit(request)?)
    }

    fn configure(&mut self, _configuration: &EngineConfiguration) -> Result<(), EngineError> {
        Ok(())
    }

    fn begin_window(&mut self, _salt: Option<u64>) {}

    fn step(&mut self, output: &mut Vec<GeneratedToken>) -> Result<StepKind, EngineError> {
        let Some(plan) = self.scheduler.schedule(&mut self.batch) else {
            return Ok(StepKind::Idle);
        };
        let (generated, lengths) = (&mut self.generated, &self.lengths);
        let choice = self.scheduler.choose(&mut self.chosen, |_, sequence, _| {
            let sequence = sequence as usize;
            generated[sequence] += 1;
            let is_last = generated[sequence] == lengths[sequence];
            Ok::<u32, Infallible>(if is_last { END_OF_SEQUENCE } else { 1 })
        });
        choice.unwrap();
        self.scheduler.complete(&self.chosen, &[END_OF_SEQUENCE], output);
        Ok(plan.into())
    }

    fn counts(&self) -> ExecutionCounts {
        ExecutionCounts::default()
    }

    fn synchronize(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn abort(&mut self) {}
}

fn requests(prompts: Vec<Vec<u32>>, concurrency: usize) -> Requests {
    Requests {
        prompts,
        max_output_tokens: 50,
        ignore_eos: false,
        streaming: false,
        schedule: Schedule::ClosedLoop { concurrency },
        sampling: Sampling::GREEDY,
    }
}

fn configuration(max_sequences: usize) -> SchedulerConfiguration {
    SchedulerConfiguration {
        batching: Batching::Continuous { max_sequences },
        token_budget: 200,
        blocks: 5,
        context_length: 256,
        prefix_caching: false,
        reserve_output: false,
    }
}

/// Runs requests that hold their concurrency from the first step to the last: (input, output, steady) tokens.
fn tokens(engine: &mut Scripted, requests: &Requests) -> (u64, u64, u64) {
    let observed = Execution::new(requests).run(engine, &LiveRequests::default()).unwrap();
    let steady = observed.steady.expect("the concurrency was held");
    (observed.input_tokens, observed.output_tokens, steady.tokens)
}

#[test]
fn a_prompt_found_in_the_cache_counts_in_the_steady_state_as_in_the_window() {
    let cached = SchedulerConfiguration {
        prefix_caching: true,
        ..configuration(1)
    };
    let mut engine = Scripted::new(cached, &[5, 5, 5]);
    let tokens = tokens(&mut engine, &requests(vec![vec![9; 64]; 3], 1));
    assert_eq!(engine.scheduler.statistics().hit_tokens, 64);
    assert_eq!(tokens, (192, 15, 207));
}

#[test]
fn a_prompt_computed_again_counts_in_the_steady_state_as_in_the_window() {
    // The second one gives up its blocks for the first one's third block, and comes back once that has ended; the third
    // begins then, and ends with it.
    let mut engine = Scripted::new(configuration(2), &[30, 45, 20]);
    let prompts = (0..3).map(|prompt| vec![prompt; 40]).collect();
    let tokens = tokens(&mut engine, &requests(prompts, 2));
    let statistics = engine.scheduler.statistics();
    assert_eq!((statistics.preemptions, statistics.recomputed_tokens), (1, 64));
    assert_eq!(tokens, (120, 95, 215));
}
