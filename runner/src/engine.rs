//! The engine seam: what measures tokens does not know what computes them.
//!
//! [`load`] is the single entry. It resolves a [`source::ModelSource`], checks the files' headers, and returns an
//! [`Engine`]. The caller submits sequences while [`Engine::free_sequences`] says there is room, and calls
//! [`Engine::step`] until it reports [`StepKind::Idle`].

pub use lem_crds::experiment::{Batching, Implementation};
pub use lem_engine::sequence::{FinishReason, GeneratedToken, Sampling, SequenceRequest};
pub use lem_engine::{architecture, header};
pub mod candle;
mod error;
mod files;
#[cfg(test)]
mod greedy_reference;
pub mod native;
pub mod source;
pub mod threads;
mod tokenizer;

pub use error::EngineError;
pub use lem_crds::runner::ComputePrecision;
pub use tokenizer::{TextTokenizer, TokenizerError};

use lem_engine::scheduler::StepPlan;
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
    /// Which code computes it.
    pub implementation: Implementation,
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
/// Where a request leaves it open, files keep their own types and synthetic weights are F32 on the CPU, BF16 on CUDA.
/// candle-transformers holds safetensors files as F32 on the CPU, where candle has no 16-bit matrix product.
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

impl EngineDescription {
    /// Refuses tokens outside the vocabulary.
    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocabulary_size = self.vocabulary_size;
        match tokens.iter().find(|token| **token as usize >= vocabulary_size) {
            Some(token) => Err(EngineError::UnknownToken {
                token: *token,
                vocabulary_size,
            }),
            None => Ok(()),
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Processed prompt tokens; a sequence's first token is among the output when its prompt is complete.
    Prefill {
        /// Prompt tokens processed: those of each prompt once, also if they are found in a cache of prefixes or
        /// computed again.
        tokens: usize,
    },
    /// Generated one token for each of some sequences.
    Decode {
        /// Sequences in the batch.
        rows: usize,
    },
    /// Both at once, so that their times cannot be told apart.
    Mixed {
        /// Prompt tokens processed, as those of a prefill.
        tokens: usize,
        /// Sequences that generated a token.
        rows: usize,
    },
    /// Nothing was submitted.
    Idle,
}

impl From<StepPlan> for StepKind {
    fn from(plan: StepPlan) -> Self {
        let tokens = plan.prompt_tokens;
        match (plan.prefill_tokens, plan.decode_rows) {
            (0, rows) => Self::Decode { rows },
            (_, 0) => Self::Prefill { tokens },
            (_, rows) => Self::Mixed { tokens, rows },
        }
    }
}

/// Steps of static batches; differences between two readings are a window's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StaticBatchCounts {
    /// Steps in which rows decoded.
    pub steps: u64,
    /// Rows of those steps.
    pub rows: u64,
    /// Over all batches: rows times the longest prompt.
    pub padded_tokens: u64,
    /// Over all batches: prompt tokens.
    pub real_tokens: u64,
}

/// State of a paged key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockCounts {
    /// Blocks of the cache.
    pub total: u64,
    /// Most blocks in use since [`Engine::begin_window`].
    pub peak_used: u64,
    /// Prompt tokens that were looked up in the cache of prefixes; none without one.
    pub queried_tokens: Option<u64>,
    /// Prompt tokens that were found there.
    pub hit_tokens: Option<u64>,
}

/// Work since the engine was loaded. Differences between two readings are a window's work, but for the peaks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ExecutionCounts {
    /// Floating-point operations of the matrix products executed; see [`crate::flops::CountedFlops`].
    pub flops: f64,
    /// Bytes of weights, keys and values that the products moved, if the engine counts them.
    pub bytes: Option<f64>,
    /// Prompt tokens processed.
    pub prefill_tokens: u64,
    /// Tokens fed back and processed by decode steps; one less per sequence than it generates.
    pub decode_tokens: u64,
    /// Steps that were not idle.
    pub steps: u64,
    /// Largest size of the key-value cache since [`Engine::begin_window`], in bytes.
    pub kv_cache_bytes_peak: u64,
    /// Static batches; none under continuous batching.
    pub static_batches: Option<StaticBatchCounts>,
    /// The paged key-value cache; none if it is not paged.
    pub blocks: Option<BlockCounts>,
}

/// How sequences share steps, and how long they may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfiguration {
    /// How sequences share a step.
    pub batching: Batching,
    /// Positions of a sequence at most, prompt and output together; more than the model's context is cut to it.
    pub sequence_positions: usize,
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

    /// Prepares for other sequences; none may be in flight. May take memory.
    ///
    /// Errors: a batching that the engine does not have.
    fn configure(&mut self, configuration: &EngineConfiguration) -> Result<(), EngineError>;

    /// Begins the peaks anew. With a `salt`, prompts share nothing with what was computed under another one.
    fn begin_window(&mut self, salt: Option<u64>);

    /// Executes one step and appends the tokens to `output`. The tokens are on the host when it
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
    let resolved = request
        .source
        .resolve()
        .map_err(|source| EngineError::Source { source })?;
    if request.implementation == Implementation::Transformers {
        return Ok(Box::new(candle::CandleEngine::load(&resolved, request)?));
    }
    match native::NativeEngine::load(&resolved, request) {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) if request.implementation == Implementation::Auto && error.is_unsupported() => {
            tracing::warn!(
                reason = crate::protocol::with_causes(&error),
                "candle-transformers computes this model, one sequence at a time"
            );
            Ok(Box::new(candle::CandleEngine::load(&resolved, request)?))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
