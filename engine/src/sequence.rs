//! What is asked of the engine, and what it answers: sequences in, tokens out.

/// How a token is chosen from the logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; ignored without `do_sample`. Below 1e-7 it means greedy.
    pub temperature: f64,
    /// Draw at random (`true`) or take the largest logit (`false`).
    pub do_sample: bool,
    /// Keep this many of the most probable tokens.
    pub top_k: Option<usize>,
    /// Keep the most probable tokens up to this total probability.
    pub top_p: Option<f64>,
    /// Seed of the random draws; the same seed gives the same tokens.
    pub seed: u64,
}

impl Sampling {
    /// The largest logit, always.
    pub const GREEDY: Self = Self {
        temperature: 1.0,
        do_sample: false,
        top_k: None,
        top_p: None,
        seed: 0,
    };
}

/// One sequence to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceRequest {
    /// Chosen by the caller, returned with each token.
    pub id: u64,
    /// Prompt as token ids; not empty.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; at least 1.
    pub max_output_tokens: u32,
    /// Go on after an end-of-sequence token, so that exactly `max_output_tokens` are generated.
    pub ignore_eos: bool,
    /// Choice of the tokens.
    pub sampling: Sampling,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token was generated; it is the last token reported.
    EndOfSequence,
    /// `max_output_tokens` were generated.
    Length,
}

/// One token that a step produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneratedToken {
    /// The sequence's id.
    pub sequence: u64,
    /// The token.
    pub token: u32,
    /// Set on the last token of the sequence.
    pub finished: Option<FinishReason>,
}
