//! Floating-point operations of token generation, in three tiers of confidence.
//!
//! One multiply-accumulate is two operations. Only matrix products count: normalisation, rotary positions, softmax,
//! activations and the embedding lookup are left out in every tier.
//!
//! 1. [`CountedFlops`] (high confidence): the engine adds up what it executes, from the shapes of the weights that it
//!    has loaded.
//! 2. [`architecture_flops`] (medium): a closed form of the model's shape.
//! 3. [`parameter_flops`] (low): twice the parameters per token.
//!
//! ## What a token costs
//!
//! A sequence of `p` prompt and `o` output tokens takes one prefill and `o − 1` decode passes. The prefill processes `p`
//! tokens and samples the first output token. Each decode pass feeds the last token back and samples the next; the last
//! output token is never fed back. So `p + o − 1` tokens pass through the layers, and the output head is computed for
//! `o` positions.

mod architecture;
mod counted;

pub use architecture::{architecture_flops, decode_flops, prefill_flops};
pub use counted::{CountedFlops, WindowUse};
pub use lem_engine::counts::attention_pairs;

/// Which tier a number of operations comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlopsMethod {
    /// Added up during execution; high confidence.
    Counted,
    /// From the model's shape; medium confidence.
    Architecture,
    /// From the number of parameters; low confidence.
    Parameters,
}

impl FlopsMethod {
    /// Name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Architecture => "architecture",
            Self::Parameters => "parameters",
        }
    }

    /// Confidence in results.
    pub const fn confidence(self) -> &'static str {
        match self {
            Self::Counted => "high",
            Self::Architecture => "medium",
            Self::Parameters => "low",
        }
    }
}

/// Tier 3: two operations per parameter and token.
pub fn parameter_flops(parameters: u64, tokens: u64) -> f64 {
    2.0 * parameters as f64 * tokens as f64
}

#[cfg(test)]
mod tests;
