//! The engines behind one interface: the same tokens, the same key-value type, the same chunks of a prompt.

mod candle;
mod lem;
mod llama;
mod weights;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use lem_engine::architecture::Architecture;
use serde::{Deserialize, Serialize};

pub(crate) use llama::LlamaContender;
pub(crate) use weights::Weights;

/// Tokens of prompts that go through the layers at once, at most. llama.cpp's own default, given to lem-engine too;
/// candle takes a prompt as a whole.
pub(crate) const CHUNK_TOKENS: usize = 512;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    /// lem-engine.
    Lem,
    /// candle-transformers.
    Candle,
    /// llama.cpp.
    Llama,
}

impl Engine {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Lem, Self::Candle, Self::Llama];

    /// For people.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Lem => "lem",
            Self::Candle => "candle",
            Self::Llama => "llama.cpp",
        }
    }

    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lem => "lem",
            Self::Candle => "candle",
            Self::Llama => "llama",
        }
    }
}

/// What an engine is loaded for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'path> {
    /// GGUF file.
    pub(crate) path: &'path Path,
    /// Sequences.
    pub(crate) rows: usize,
    /// Positions of each sequence.
    pub(crate) positions: usize,
    /// Threads, the calling one included.
    pub(crate) threads: usize,
    /// Whether [`Contender::logits`] will be asked. Only lem-engine has to know: its logits last until the next step, so
    /// they would be copied, while the other two copy them in any case.
    pub(crate) keep_logits: bool,
}

/// A loaded model with the key-value cache of as many sequences as it was loaded for.
pub(crate) trait Contender {
    /// Empties the cache and computes the prompts, one per sequence and all of one length; the logits after each
    /// prompt's last token are ready when it returns.
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<()>;

    /// Appends one token to each sequence; the logits after them are ready when it returns.
    fn decode(&mut self, tokens: &[u32]) -> Result<()>;

    /// The logits of a sequence after its last token, one per entry of the vocabulary.
    fn logits(&mut self, row: usize) -> Result<Vec<f32>>;

    /// What is computed with, for example instructions.
    fn details(&self) -> String;
}

/// Loads an engine.
pub(crate) fn load(engine: Engine, load: &Load<'_>) -> Result<Box<dyn Contender>> {
    Ok(match engine {
        Engine::Lem => Box::new(lem::LemContender::load(load)?),
        Engine::Candle => candle::load(load)?,
        Engine::Llama => Box::new(LlamaContender::load(load)?),
    })
}

/// Version of an engine, with the commit where it tells.
pub(crate) fn version(engine: Engine) -> String {
    match engine {
        Engine::Lem => lem::version(),
        Engine::Candle => format!("candle-transformers {}", env!("LEM_BENCH_CANDLE_VERSION")),
        Engine::Llama => format!(
            "{}, llama-cpp-sys-2 {}",
            llama::version(),
            env!("LEM_BENCH_LLAMA_VERSION")
        ),
    }
}

/// Bytes of the key-value cache of one position in half precision.
pub(crate) fn cache_bytes_per_position(architecture: &Architecture) -> u64 {
    let width = architecture.key_value_heads * architecture.head_dimension;
    (2 * architecture.layers * width * size_of::<half::f16>()) as u64
}
