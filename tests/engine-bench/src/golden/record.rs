//! Recorded logits, and how far another engine's are from them. The engine's own test reads this file too.

use serde::{Deserialize, Serialize};

/// Largest logits that are recorded.
const LARGEST: usize = 20;

/// Largest mean divergence by the type in a file's name, nats: two to three times what lem-engine had with AVX2 on `SmolLM2`
/// (4.1e-6, 2.6e-4, 4.0e-3, 5.0e-3, 5.6e-3 and 9.1e-3), where candle had 5.9e-6, 1.4e-3, 4.6e-3, 6.0e-3, 5.0e-3 and 1.3e-2.
/// With block types every engine rounds activations to 8 bits in a way of its own: llama.cpp's logits of such files are
/// as far from those of the same weights as floats.
const LIMITS: [(&str, f64); 6] = [
    ("f32", 1e-5),
    ("bf16", 8e-4),
    ("q4_0", 8e-3),
    ("q8_0", 1e-2),
    ("q4_1", 1.1e-2),
    ("q4_k", 2e-2),
];
/// For other types.
const OTHER_LIMIT: f64 = 1e-3;

/// Largest mean divergence that passes, by the name of a weight file, nats.
pub(crate) fn divergence_limit(file: &str) -> f64 {
    let by_type = LIMITS.iter().find(|(name, _)| file.contains(&format!(".{name}.")));
    by_type.map_or(OTHER_LIMIT, |(_, limit)| *limit)
}

/// How many of the most probable tokens have to contain the other engine's choice.
pub(crate) const NEAR: usize = 5;

/// How two engines differ at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Difference {
    /// Whether both would choose the same token.
    pub(crate) same_choice: bool,
    /// Whether each one's choice is among the other's [`NEAR`] most probable.
    pub(crate) near_choice: bool,
    /// Kullback-Leibler divergence of the engine from the record, over the recorded tokens and the rest as one, nats.
    pub(crate) divergence: f64,
}

/// Recorded logits of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Golden {
    /// Name of the weight file.
    pub(crate) file: String,
    /// Who computed them.
    pub(crate) version: String,
    /// Prompts.
    pub(crate) cases: Vec<Case>,
}

/// One prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Token ids of the prompt.
    pub(crate) prompt: Vec<u32>,
    /// Token ids that follow, whatever an engine would choose: teacher forcing.
    pub(crate) forced: Vec<u32>,
    /// What follows the prompt, then what follows each forced token.
    pub(crate) positions: Vec<Position>,
}

/// The logits at one position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Logarithm of the sum of the exponentials of all logits.
    pub(crate) log_sum: f64,
    /// Ids of the most probable tokens, the first first.
    pub(crate) tokens: Vec<u32>,
    /// Their logits.
    pub(crate) logits: Vec<f32>,
}

impl Position {
    /// The largest logits.
    pub(crate) fn of(logits: &[f32]) -> Self {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let larger = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        order.select_nth_unstable_by(LARGEST, larger);
        order.truncate(LARGEST);
        order.sort_unstable_by(larger);
        Self {
            log_sum: log_sum(logits),
            logits: order.iter().map(|token| logits[*token as usize]).collect(),
            tokens: order,
        }
    }
}

/// Logarithm of the sum of the exponentials.
pub(crate) fn log_sum(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    largest + sum.ln()
}

impl Difference {
    /// At one position.
    pub(crate) fn between(recorded: &Position, logits: &[f32]) -> Self {
        let found = Position::of(logits);
        let best = |position: &Position| position.tokens[..NEAR].to_vec();
        let total = log_sum(logits);
        let (mut divergence, mut recorded_rest, mut found_rest) = (0.0, 1.0, 1.0);
        for (token, logit) in recorded.tokens.iter().zip(&recorded.logits) {
            let recorded_log = f64::from(*logit) - recorded.log_sum;
            let found_log = f64::from(logits[*token as usize]) - total;
            divergence += recorded_log.exp() * (recorded_log - found_log);
            recorded_rest -= recorded_log.exp();
            found_rest -= found_log.exp();
        }
        // Rounding can leave a little less than nothing.
        let (recorded_rest, found_rest) = (f64::max(recorded_rest, 1e-12), f64::max(found_rest, 1e-12));
        divergence += recorded_rest * (recorded_rest / found_rest).ln();
        Self {
            same_choice: found.tokens[0] == recorded.tokens[0],
            near_choice: best(&found).contains(&recorded.tokens[0]) && best(recorded).contains(&found.tokens[0]),
            divergence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits() -> Vec<f32> {
        (0..100).map(|index| (index * 37 % 100) as f32 / 10.0).collect()
    }

    #[test]
    fn an_engine_does_not_differ_from_itself() {
        let difference = Difference::between(&Position::of(&logits()), &logits());
        assert!(difference.same_choice && difference.near_choice);
        assert!(difference.divergence.abs() < 1e-6, "{difference:?}");
    }

    #[test]
    fn a_far_choice_is_seen() {
        let mut other = logits();
        let least = (0..100).min_by(|a, b| other[*a].total_cmp(&other[*b])).unwrap();
        other[least] = 20.0;
        let difference = Difference::between(&Position::of(&logits()), &other);
        assert!(!difference.same_choice && !difference.near_choice);
        assert!(difference.divergence > 1.0, "{difference:?}");
    }
}
