//! Executes the requests of a window or of a warm-up: admits them as they arrive, steps the engine, notes the times.
//! All memory is taken by [`Execution::new`], before the window.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use super::phases::{Phase, Phases};
use crate::{
    energy::clock::monotonic_seconds,
    engine::{Engine, EngineError, GeneratedToken, SequenceRequest, StepKind},
    metrics::LiveRequests,
    workload::{Requests, Schedule},
};

/// What was observed, in seconds since the start of execution.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// When the execution started, in seconds on `CLOCK_MONOTONIC`.
    pub(super) began: f64,
    /// Submission to completion of each completed request, in order of completion.
    pub(super) end_to_end: Vec<f64>,
    /// Submission to first token; empty without streaming.
    pub(super) time_to_first_token: Vec<f64>,
    /// Gaps between tokens; empty without streaming.
    pub(super) inter_token: Vec<f64>,
    /// Prompt tokens of completed requests.
    pub(super) input_tokens: u64,
    /// Tokens generated.
    pub(super) output_tokens: u64,
    /// (prompt, output) tokens of each completed request.
    pub(super) lengths: Vec<(u64, u64)>,
    /// From the moment of sending; empty where that is submission.
    pub(super) end_to_end_from_send: Vec<f64>,
    /// Prefill and decode.
    pub(super) phases: Phases,
    /// While the configured concurrency was held.
    pub(super) steady: Option<Steady>,
}

/// The time in which the configured concurrency was held, in seconds since the start of execution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steady {
    pub(super) start: f64,
    pub(super) end: f64,
    /// Prompt and generated tokens of the steps in it.
    pub(super) tokens: u64,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    submitted: f64,
    sent: f64,
    last_token: f64,
    tokens: u64,
}

/// The requests of a window, ready to be sent.
pub(super) struct Execution<'a> {
    pub(super) requests: &'a Requests,
    observed: Observed,
    progress: Vec<Progress>,
    waiting: VecDeque<usize>,
    prepared: Vec<Option<SequenceRequest>>,
    output: Vec<GeneratedToken>,
}

impl<'a> Execution<'a> {
    /// Takes all memory that the execution will need.
    pub(super) fn new(requests: &'a Requests) -> Self {
        let count = requests.prompts.len();
        let gaps = if requests.streaming {
            count * requests.max_output_tokens as usize
        } else {
            0
        };
        Self {
            requests,
            observed: Observed {
                end_to_end: Vec::with_capacity(count),
                time_to_first_token: Vec::with_capacity(count),
                inter_token: Vec::with_capacity(gaps),
                lengths: Vec::with_capacity(count),
                end_to_end_from_send: Vec::with_capacity(if requests.schedule.has_arrivals() { count } else { 0 }),
                phases: Phases::for_requests(count),
                ..Observed::default()
            },
            progress: vec![Progress::default(); count],
            waiting: VecDeque::with_capacity(count),
            prepared: (0..count).map(|index| Some(sequence(requests, index))).collect(),
            output: Vec::with_capacity(64),
        }
    }

    /// Runs all requests to their end. What is live costs a few atomic additions per step.
    pub(super) fn run(self, engine: &mut dyn Engine, live: &LiveRequests) -> Result<Observed, EngineError> {
        let Self {
            requests,
            mut observed,
            mut progress,
            mut waiting,
            mut prepared,
            mut output,
        } = self;
        let count = requests.prompts.len();
        let mut steady = SteadyWatch::new(&requests.schedule);
        let mut arrived = 0;
        let mut cached: u64 = 0;
        observed.began = monotonic_seconds();
        let begin = Instant::now();
        let mut now = 0.0;
        while observed.end_to_end.len() < count {
            while arrived < count && has_arrived(&requests.schedule, arrived, arrived - observed.end_to_end.len(), now)
            {
                progress[arrived].submitted = match &requests.schedule {
                    Schedule::ClosedLoop { .. } => now,
                    Schedule::Open { arrivals } => arrivals[arrived],
                };
                progress[arrived].sent = now;
                waiting.push_back(arrived);
                arrived += 1;
            }
            steady.before_step(arrived - observed.end_to_end.len(), now);
            while engine.free_sequences() > 0
                && let Some(request) = waiting.pop_front().and_then(|index| prepared[index].take())
            {
                engine.submit(request)?;
            }
            let stepped = now;
            let kind = engine.step(&mut output)?;
            now = begin.elapsed().as_secs_f64();
            let prompt_tokens = match kind {
                StepKind::Prefill { tokens } => {
                    observed.phases.add(Phase::Prefill, stepped, now);
                    tokens
                }
                StepKind::Decode { .. } => {
                    observed.phases.add(Phase::Decode, stepped, now);
                    0
                }
                StepKind::Mixed { tokens, .. } => {
                    observed.phases.mix();
                    tokens
                }
                StepKind::Idle => {
                    now = await_arrival(&requests.schedule, arrived, begin);
                    continue;
                }
            };
            steady.after_step(prompt_tokens + output.len(), now);
            live.output_tokens.inc_by(output.len() as u64);
            for token in output.drain(..) {
                let index = token.sequence as usize;
                let sequence = &mut progress[index];
                let prompt = requests.prompts[index].len() as u64;
                if sequence.tokens == 0 {
                    live.input_tokens.inc_by(prompt);
                    cached += prompt;
                }
                cached += 1;
                if requests.streaming {
                    if sequence.tokens == 0 {
                        observed.time_to_first_token.push(now - sequence.submitted);
                    } else {
                        observed.inter_token.push(now - sequence.last_token);
                    }
                }
                sequence.last_token = now;
                sequence.tokens += 1;
                if token.finished.is_some() {
                    live.requests.inc();
                    cached -= prompt + sequence.tokens;
                    observed.end_to_end.push(now - sequence.submitted);
                    if requests.schedule.has_arrivals() {
                        observed.end_to_end_from_send.push(now - sequence.sent);
                    }
                    observed.lengths.push((prompt, sequence.tokens));
                    observed.input_tokens += prompt;
                    observed.output_tokens += sequence.tokens;
                }
            }
            live.batch_rows
                .set((arrived - waiting.len() - observed.end_to_end.len()) as u64);
            live.kv_cache_tokens.set(cached);
        }
        observed.steady = steady.ended();
        Ok(observed)
    }
}

/// Watches whether as many requests are in the system as are configured (METHODOLOGY §4).
struct SteadyWatch {
    concurrency: usize,
    start: Option<f64>,
    end: f64,
    tokens: u64,
    lost: bool,
}

impl SteadyWatch {
    const fn new(schedule: &Schedule) -> Self {
        let concurrency = match schedule {
            Schedule::ClosedLoop { concurrency } => *concurrency,
            // Arrivals hold no number of requests.
            Schedule::Open { .. } => usize::MAX,
        };
        Self {
            concurrency,
            start: None,
            end: 0.0,
            tokens: 0,
            lost: false,
        }
    }

    fn before_step(&mut self, in_system: usize, now: f64) {
        if in_system >= self.concurrency {
            self.start.get_or_insert(now);
        } else if self.start.is_some() {
            self.lost = true;
        }
    }

    fn after_step(&mut self, tokens: usize, now: f64) {
        if self.start.is_some() && !self.lost {
            self.tokens += tokens as u64;
            self.end = now;
        }
    }

    fn ended(&self) -> Option<Steady> {
        let start = self.start?;
        (self.end > start).then_some(Steady {
            start,
            end: self.end,
            tokens: self.tokens,
        })
    }
}

fn sequence(requests: &Requests, index: usize) -> SequenceRequest {
    SequenceRequest {
        id: index as u64,
        prompt: requests.prompts[index].clone(),
        max_output_tokens: requests.max_output_tokens,
        ignore_eos: requests.ignore_eos,
        sampling: requests.sampling,
    }
}

fn has_arrived(schedule: &Schedule, index: usize, in_system: usize, now: f64) -> bool {
    match schedule {
        Schedule::ClosedLoop { concurrency } => in_system < *concurrency,
        Schedule::Open { arrivals } => arrivals[index] <= now,
    }
}

/// Sleeps to the next arrival of an open schedule; gives the time then.
fn await_arrival(schedule: &Schedule, next: usize, begin: Instant) -> f64 {
    if let Schedule::Open { arrivals } = schedule
        && let Some(arrival) = arrivals.get(next)
    {
        let ahead = Duration::from_secs_f64(*arrival).saturating_sub(begin.elapsed());
        thread::sleep(ahead);
    }
    begin.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests;
