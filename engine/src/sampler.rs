//! Chooses a token from logits.
//!
//! Filters mean what they mean in candle's `LogitsProcessor`: `top_k` keeps the most probable tokens, `top_p` then keeps
//! the most probable of these until their probabilities *before any filter* reach it. Equally probable tokens count in
//! the order of the vocabulary, so that a result doesn't depend on how a sort treats them.

use std::cmp::Ordering;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::sequence::Sampling;

/// Below this temperature the largest logit is taken.
const LEAST_TEMPERATURE: f64 = 1e-7;
/// Tokens sorted at first when looking for the most probable ones; mostly enough, and growing when not.
const FIRST_SORTED: usize = 256;
/// Lanes of the search for the largest logit; the compiler makes vectors of them.
const LANES: usize = 16;

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// The logits are empty or none of them is a number: the computation before went wrong.
    #[error("none of the {vocabulary} logits is a number")]
    NotNumbers {
        /// Logits given.
        vocabulary: usize,
    },
    /// `top_k` is 0.
    #[error("top_k is 0, which leaves no token to choose from")]
    NothingKept,
}

/// Memory that sampling works in. One serves all sequences, since they are sampled one after the other.
#[derive(Debug, Clone, Default)]
pub struct SamplerScratch {
    /// Probabilities times a common factor, by token.
    weights: Vec<f32>,
    /// Tokens, the most probable ones first as far as they are sorted.
    tokens: Vec<u32>,
}

/// Chooses the tokens of one sequence. Each draw moves its random numbers on by one, whatever else runs.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    /// Tokens chosen elsewhere.
    elsewhere: u32,
}

/// A choice without filters, which a device can make: it needs one pass over the logits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct UnfilteredChoice {
    /// 0 for the most probable token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Seed of the sequence.
    pub seed: u64,
    /// Number of the choice in its sequence: with the same seed each has randomness of its own.
    pub step: u32,
}

impl Sampler {
    /// A sampler at the beginning of its sequence.
    pub fn new(sampling: Sampling) -> Self {
        Self {
            sampling,
            random: ChaCha8Rng::seed_from_u64(sampling.seed),
            elsewhere: 0,
        }
    }

    /// What the next choice is, to be made by a device, unless it filters tokens. A device draws other random numbers
    /// than [`Self::sample`].
    pub fn unfiltered(&mut self) -> Option<UnfilteredChoice> {
        let filters = self.sampling.top_k.is_some() || self.sampling.top_p.is_some();
        let temperature = if self.is_greedy() {
            0.0
        } else if filters {
            return None;
        } else {
            self.sampling.temperature as f32
        };
        let step = self.elsewhere;
        self.elsewhere = self.elsewhere.wrapping_add(1);
        Some(UnfilteredChoice {
            temperature,
            seed: self.sampling.seed,
            step,
        })
    }

    /// Whether the largest logit is always taken, so that an index of it is all that is needed of the logits.
    pub fn is_greedy(&self) -> bool {
        let temperature = self.sampling.temperature;
        !self.sampling.do_sample || temperature.is_nan() || temperature < LEAST_TEMPERATURE
    }

    /// Chooses a token: an index of `logits`. A logit that isn't a number is never chosen.
    pub fn sample(&mut self, logits: &[f32], scratch: &mut SamplerScratch) -> Result<u32, SamplerError> {
        let (token, maximum) = largest(logits).ok_or(SamplerError::NotNumbers {
            vocabulary: logits.len(),
        })?;
        if self.is_greedy() {
            return Ok(token);
        }
        if self.sampling.top_k == Some(0) {
            return Err(SamplerError::NothingKept);
        }
        let drawn = self.random.random::<f64>();
        scratch.weigh(logits, maximum, self.sampling.temperature);
        let total = total(scratch.weights.iter().copied());
        let top_k = self.sampling.top_k.filter(|&count| count < logits.len());
        // A bound outside of these keeps everything, as in candle.
        let top_p = self.sampling.top_p.filter(|bound| *bound > 0.0 && *bound < 1.0);
        if top_k.is_none() && top_p.is_none() {
            let weights = scratch.weights.iter().copied().enumerate();
            return Ok(pick(weights, drawn * total).map_or(token, |index| index as u32));
        }
        scratch.tokens.clear();
        scratch.tokens.extend(0..logits.len() as u32);
        if let Some(count) = top_k {
            scratch.sort(0, count);
            scratch.tokens.truncate(count);
        }
        if let Some(bound) = top_p {
            scratch.keep_probable(bound * total, top_k.is_some());
        }
        let weights = &scratch.weights;
        let kept = || scratch.tokens.iter().map(|&token| (token, weights[token as usize]));
        let target = drawn * self::total(kept().map(|(_, weight)| weight));
        Ok(pick(kept(), target).unwrap_or(token))
    }
}

impl SamplerScratch {
    /// Sets the weights to the softmax of the logits at `temperature`, without its division by the sum.
    fn weigh(&mut self, logits: &[f32], maximum: f32, temperature: f64) {
        let scale = (1.0 / temperature) as f32;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| {
            if logit >= maximum {
                // The difference is no number if the largest logit is infinite.
                1.0
            } else {
                // What is no number becomes 0 too.
                ((logit - maximum) * scale).exp().max(0.0)
            }
        }));
    }

    /// Brings the most probable of the tokens from `sorted` on, up to the `end`th of all, to their places in order.
    fn sort(&mut self, sorted: usize, end: usize) {
        let weights = &self.weights;
        let order = |left: &u32, right: &u32| -> Ordering {
            weights[*right as usize]
                .total_cmp(&weights[*left as usize])
                .then(left.cmp(right))
        };
        let rest = &mut self.tokens[sorted..];
        let count = end - sorted;
        if count == 0 {
            return;
        }
        if count < rest.len() {
            rest.select_nth_unstable_by(count - 1, order);
        }
        rest[..count].sort_unstable_by(order);
    }

    /// Keeps the most probable tokens until their weights reach `bound`. `sorted` says that they are in order already.
    ///
    /// A few tokens hold most of the probability, so only as many are sorted as are looked at.
    fn keep_probable(&mut self, bound: f64, sorted: bool) {
        let mut end = if sorted { self.tokens.len() } else { 0 };
        let mut sum = 0.0;
        let mut index = 0;
        while index < self.tokens.len() && sum < bound {
            if index == end {
                let next = (end * 8).max(FIRST_SORTED).min(self.tokens.len());
                self.sort(end, next);
                end = next;
            }
            sum += f64::from(self.weights[self.tokens[index] as usize]);
            index += 1;
        }
        self.tokens.truncate(index);
    }
}

/// The first of the largest logits and its value; `None` if none is a number.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    // A comparison with what is no number is false, so it never gets into a lane.
    let larger = |lane: f32, logit: f32| if logit > lane { logit } else { lane };
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied();
    let lanes = chunks.fold([f32::NEG_INFINITY; LANES], |mut lanes, chunk| {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, logit);
        }
        lanes
    });
    let maximum = lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, larger);
    // Fails only where there is no number: then the maximum is the infinity it began with. Copies of a number are equal,
    // and so are the two zeros.
    #[expect(clippy::float_cmp, reason = "the value was copied from the slice")]
    let index = logits.iter().position(|&logit| logit == maximum)?;
    Some((index as u32, maximum))
}

/// Sum in double precision: a vocabulary has so many small weights that single precision would lose them.
fn total(weights: impl Iterator<Item = f32>) -> f64 {
    weights.map(f64::from).sum()
}

/// The entry in which the running sum passes `target`; the last possible one where rounding kept it from passing.
fn pick<T>(weights: impl Iterator<Item = (T, f32)>, target: f64) -> Option<T> {
    let mut sum = 0.0;
    let mut last = None;
    for (entry, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = Some(entry);
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests;
