//! Prompts as tokens, and when they arrive. Pure but for the tokenizer; the same seed gives the same requests on every
//! process and in every cycle.

use std::path::{Path, PathBuf};

use lem_crds::{
    experiment::{Arrival, ConfigMapReference, Decoder, Prompts, Workload},
    prompts::{self, PromptsError},
    runner::PROMPTS_DIRECTORY,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp};

use crate::engine::{Engine, Sampling, TokenizerError};

/// Why the requests of a window could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Text needs a tokenizer.
    #[error("the model has no tokenizer, so text prompts cannot be used: use workload.prompts.synthetic")]
    NoTokenizer,
    /// The tokenizer refused a prompt.
    #[error("failed to tokenise prompt {index}")]
    Tokenise {
        /// Position of the prompt.
        index: usize,
        /// Why.
        #[source]
        source: TokenizerError,
    },
    /// A prompt has no tokens.
    #[error("prompt {index} is empty")]
    EmptyPrompt {
        /// Position of the prompt.
        index: usize,
    },
    /// No prompts at all.
    #[error("workload.prompts has no prompt")]
    NoPrompts,
    /// The source must be resolved before a runner sees it.
    #[error("workload.prompts.{0} reached the runner unresolved")]
    Unresolved(&'static str),
    /// The mounted ConfigMap cannot be read.
    #[error("failed to read the prompts at {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The mounted ConfigMap is no file of prompts.
    #[error("workload.prompts.configMapRef: the key {key:?} of ConfigMap {name:?}")]
    Prompts {
        /// Name of the ConfigMap.
        name: String,
        /// Its key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: PromptsError,
    },
    /// Prompt and output do not fit the model.
    #[error(
        "workload.maxInputTokens {input} + workload.maxOutputTokens {output} exceed the model's context of {context} tokens"
    )]
    ContextExceeded {
        /// Longest prompt.
        input: usize,
        /// Most output.
        output: u32,
        /// The context.
        context: usize,
    },
    /// The arrival rate is not a positive number.
    #[error("workload.arrival.poisson.requestsPerSecond must be above 0")]
    Rate,
}

/// The requests of one window.
#[derive(Debug, Clone, PartialEq)]
pub struct Requests {
    /// Prompts in token ids, one per request.
    pub prompts: Vec<Vec<u32>>,
    /// Most tokens to generate for each.
    pub max_output_tokens: u32,
    /// Generate all of them.
    pub ignore_eos: bool,
    /// Take a timestamp for each token.
    pub streaming: bool,
    /// When they are submitted.
    pub schedule: Schedule,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// When requests are submitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// So many in the system at once.
    ClosedLoop {
        /// Requests submitted and not completed.
        concurrency: usize,
    },
    /// At these times, in seconds since the window's start.
    Open {
        /// One time per request, ascending.
        arrivals: Vec<f64>,
    },
}

impl Schedule {
    /// Whether requests have times at which they are due.
    pub const fn has_arrivals(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

impl Requests {
    /// The requests that a plan asks of a loaded model.
    ///
    /// # Errors
    /// Prompts that cannot be tokenised, are empty, or do not fit the context.
    pub fn build(workload: &Workload, decoder: &Decoder, engine: &dyn Engine) -> Result<Self, WorkloadError> {
        let description = engine.description();
        let count = workload.requests as usize;
        let texts: Vec<Vec<u32>> = match &workload.prompts {
            Prompts::Synthetic(synthetic) => synthetic_prompts(
                synthetic.seed,
                count,
                workload.max_input_tokens,
                description.vocabulary_size,
            ),
            Prompts::Inline(texts) => encode(texts, workload.max_input_tokens, engine)?,
            Prompts::JsonLines(_) => return Err(WorkloadError::Unresolved("jsonLines")),
            Prompts::ConfigMapRef(reference) => encode(&mounted(reference)?, workload.max_input_tokens, engine)?,
        };
        if texts.is_empty() {
            return Err(WorkloadError::NoPrompts);
        }
        let longest = texts.iter().map(Vec::len).max().unwrap_or_default();
        if longest + workload.max_output_tokens as usize > description.context_length {
            return Err(WorkloadError::ContextExceeded {
                input: longest,
                output: workload.max_output_tokens,
                context: description.context_length,
            });
        }
        let prompts = (0..count).map(|index| texts[index % texts.len()].clone()).collect();
        let schedule = match &workload.arrival {
            Arrival::ClosedLoop(closed) => Schedule::ClosedLoop {
                concurrency: closed.concurrency as usize,
            },
            Arrival::Poisson(poisson) => Schedule::Open {
                arrivals: arrivals(poisson.requests_per_second.get(), decoder.seed, count)?,
            },
        };
        Ok(Self {
            prompts,
            max_output_tokens: workload.max_output_tokens,
            ignore_eos: workload.ignore_eos,
            streaming: workload.streaming,
            schedule,
            sampling: sampling(decoder),
        })
    }

    /// The requests of one iteration of a warm-up: as many at once as the window has in the engine, which takes
    /// `room`; the next ones of the window's, cyclically.
    #[must_use]
    pub fn warmup_requests(&self, iteration: usize, room: usize) -> Self {
        let at_once = match &self.schedule {
            Schedule::ClosedLoop { concurrency } => room.min(*concurrency),
            Schedule::Open { .. } => room,
        };
        let count = at_once.clamp(1, self.prompts.len());
        let prompts = self.prompts.iter().cycle().skip(iteration * count % self.prompts.len());
        Self {
            prompts: prompts.take(count).cloned().collect(),
            schedule: Schedule::ClosedLoop { concurrency: count },
            ..self.clone()
        }
    }
}

/// The texts of the ConfigMap that the pod has mounted.
fn mounted(reference: &ConfigMapReference) -> Result<Vec<String>, WorkloadError> {
    let path = Path::new(PROMPTS_DIRECTORY).join(&reference.key);
    let text = std::fs::read_to_string(&path).map_err(|source| WorkloadError::Read { path, source })?;
    prompts::parse(&text, &reference.field).map_err(|source| WorkloadError::Prompts {
        name: reference.name.clone(),
        key: reference.key.clone(),
        source,
    })
}

fn sampling(decoder: &Decoder) -> Sampling {
    Sampling {
        temperature: decoder.temperature.get(),
        do_sample: decoder.do_sample,
        top_k: decoder.top_k.map(|k| k as usize),
        top_p: decoder.top_p.as_ref().map(lem_crds::quantity::Decimal::get),
        seed: u64::from(decoder.seed),
    }
}

/// Uniform tokens of exact length. The first 256 ids are left out where the vocabulary allows: models keep their
/// special tokens there.
fn synthetic_prompts(seed: u32, count: usize, length: u32, vocabulary: usize) -> Vec<Vec<u32>> {
    let vocabulary = vocabulary as u32;
    let first = if vocabulary > 512 { 256 } else { 0 };
    (0..count)
        .map(|index| {
            let mut random = ChaCha8Rng::seed_from_u64((u64::from(seed) << 32) | index as u64);
            (0..length).map(|_| random.random_range(first..vocabulary)).collect()
        })
        .collect()
}

fn encode(texts: &[String], longest: u32, engine: &dyn Engine) -> Result<Vec<Vec<u32>>, WorkloadError> {
    let tokenizer = engine.tokenizer().ok_or(WorkloadError::NoTokenizer)?;
    let mut prompts = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let mut tokens = tokenizer
            .encode(text)
            .map_err(|source| WorkloadError::Tokenise { index, source })?;
        tokens.truncate(longest as usize);
        if tokens.is_empty() {
            return Err(WorkloadError::EmptyPrompt { index });
        }
        prompts.push(tokens);
    }
    Ok(prompts)
}

/// Arrival times of a Poisson process: exponential gaps of mean 1/rate.
fn arrivals(rate: f64, seed: u32, count: usize) -> Result<Vec<f64>, WorkloadError> {
    let gaps = Exp::new(rate).ok().filter(|_| rate > 0.0).ok_or(WorkloadError::Rate)?;
    let mut random = ChaCha8Rng::seed_from_u64(u64::from(seed) ^ 0x0061_7272_6976_616c);
    let mut now = 0.0;
    Ok((0..count)
        .map(|_| {
            now += gaps.sample(&mut random);
            now
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_prompts_of_the_exact_length() {
        let prompts = synthetic_prompts(7, 5, 33, 49152);
        assert_eq!(prompts, synthetic_prompts(7, 5, 33, 49152));
        assert_ne!(prompts, synthetic_prompts(8, 5, 33, 49152));
        assert!(
            prompts
                .iter()
                .all(|prompt| prompt.len() == 33 && prompt.iter().all(|token| *token < 49152))
        );
        assert_eq!(
            prompts[..3],
            synthetic_prompts(7, 3, 33, 49152)[..],
            "more requests changed the first prompts"
        );
    }

    #[test]
    fn poisson_arrivals_ascend_with_the_mean_rate() {
        let times = arrivals(50.0, 1, 20_000).unwrap();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        let rate = 20_000.0 / times[19_999];
        assert!((rate / 50.0 - 1.0).abs() < 0.05, "{rate}");
        assert!(arrivals(0.0, 1, 3).is_err());
    }
}
