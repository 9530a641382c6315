//! The engine seam: what measures tokens does not know what computes them.
//!
//! [`load`] is the single entry. It resolves a [`source::ModelSource`], checks the files' headers, and returns an
//! [`Engine`]. The caller submits sequences while [`Engine::free_sequences`] says there is room, and calls
//! [`Engine::step`] until it reports [`StepKind::Idle`].

pub use lem_engine::{architecture, header};
pub mod candle;
mod error;
pub mod source;
pub mod threads;
mod tokenizer;

pub use error::EngineError;
pub use lem_crds::runner::ComputePrecision;
pub use tokenizer::{TextTokenizer, TokenizerError};

use source::ModelSource;

/// What to load and where to run it.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// Where the weights come from.
    pub source: ModelSource,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Element type of the weights; `None` lets the engine choose (see [`WeightType`]).
    pub dtype: Option<WeightType>,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device if this binary was built with the `cuda` feature and there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device, by its index.
    Cuda(usize),
}

/// Element type in which the weights are held.
///
/// Where a request leaves it open: a GGUF file keeps its own types; other weights are held as F32 on the CPU, where
/// candle has no 16-bit matrix product, and as BF16 on CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit floats. For a GGUF file: every tensor is dequantised when it is loaded.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain floats.
    Bf16,
    /// 4-bit blocks with a scale (ggml `Q4_0`); synthetic weights of llama, qwen2, qwen3 and phi3 only.
    Q4_0,
    /// 8-bit blocks with a scale (ggml `Q8_0`); synthetic weights of llama, qwen2, qwen3 and phi3 only.
    Q8_0,
}

impl WeightType {
    /// Lower-case name, for example `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// What has been loaded: provenance for the results.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineDescription {
    /// Engine, for example `candle`.
    pub name: &'static str,
    /// Version of the engine.
    pub version: &'static str,
    /// `cpu`, or `cuda:` and the device's index.
    pub device: String,
    /// Element type of unquantised weights and of the key-value cache, for example `f32`.
    pub dtype: String,
    /// Shape of the model.
    pub architecture: architecture::Architecture,
    /// Most frequent element type of the weight matrices if they are quantised, for example `Q4_1`.
    pub quantisation: Option<String>,
    /// Bytes of the weights as they are held for the matrix products.
    pub weight_bytes: u64,
    /// Elements of all weights; tied ones count once.
    pub parameters: u64,
    /// Positions that one sequence can have, prompt and output together.
    pub context_length: usize,
    /// Entries of the vocabulary; every token is below it.
    pub vocabulary_size: usize,
    /// Precision of the matrix products.
    pub compute_precision: ComputePrecision,
    /// Hexadecimal SHA-256 of the weight files, or `synthetic:` with the preset and the seed.
    pub weights_digest: String,
}

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

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Processed prompt tokens; the sequence's first token is among the output when its prompt is complete.
    Prefill {
        /// Prompt tokens processed.
        tokens: usize,
    },
    /// Generated one token for each of some sequences.
    Decode {
        /// Sequences in the batch.
        rows: usize,
    },
    /// Nothing was submitted.
    Idle,
}

/// Work since the engine was loaded. Differences between two readings are a window's work.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExecutionCounts {
    /// Floating-point operations of the matrix products executed; see [`crate::flops::CountedFlops`].
    pub flops: f64,
    /// Prompt tokens processed.
    pub prefill_tokens: u64,
    /// Tokens fed back and processed by decode steps; one less per sequence than it generates.
    pub decode_tokens: u64,
    /// Steps that were not idle.
    pub steps: u64,
    /// Largest size of the key-value cache so far, in bytes.
    pub kv_cache_bytes_peak: u64,
}

/// Computes tokens. One thread drives it; it may use others inside.
pub trait Engine: Send {
    /// What has been loaded.
    fn description(&self) -> &EngineDescription;

    /// Translates between text and tokens; `None` for synthetic weights.
    fn tokenizer(&self) -> Option<&TextTokenizer>;

    /// How many more sequences can be submitted now.
    fn free_sequences(&self) -> usize;

    /// Accepts a sequence. Its work happens in later steps.
    ///
    /// Errors: no free slot, an empty prompt, no output asked for, a token outside the vocabulary, or a prompt that
    /// together with its output exceeds the context.
    fn submit(&mut self, request: SequenceRequest) -> Result<(), EngineError>;

    /// Executes one prefill or one decode step and appends the tokens to `output`. The tokens are on the host when it
    /// returns.
    ///
    /// After an error the sequences in flight are lost; [`Engine::abort`] makes the engine usable again.
    fn step(&mut self, output: &mut Vec<GeneratedToken>) -> Result<StepKind, EngineError>;

    /// Work since the engine was loaded.
    fn counts(&self) -> ExecutionCounts;

    /// Waits until the device has finished what was started.
    fn synchronize(&mut self) -> Result<(), EngineError>;

    /// Drops the sequences in flight and what they hold.
    fn abort(&mut self);
}

/// Loads a model: resolves the source (downloading if it must), checks the files, builds the engine.
///
/// Errors name the file or the repository and what is wrong with it.
pub fn load(request: &LoadRequest) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(candle::CandleEngine::load(request)?))
}

#[cfg(test)]
mod tests;
