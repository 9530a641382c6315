//! llama.cpp's logits after fixed tokens, kept in files so that lem-engine can be compared without llama.cpp.

pub(crate) mod record;
mod texts;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::contender::{self, Contender, Engine, LlamaContender, Load};
use crate::measure::file_name;
use record::{Case, Golden, Position};
use texts::TEXTS;

/// Tokens of each prompt.
const PROMPT_TOKENS: usize = 48;
/// Positions whose logits are recorded: after the prompt, and after each further token but the last.
const POSITIONS: usize = 16;

/// What to record.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// GGUF file
    #[arg(long)]
    file: PathBuf,
    /// JSON file to write
    #[arg(long)]
    output: PathBuf,
    /// Threads to compute with
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Computes and writes.
pub(crate) fn golden(arguments: &Arguments) -> Result<()> {
    let mut engine = LlamaContender::load(&Load {
        path: &arguments.file,
        rows: 1,
        positions: PROMPT_TOKENS + POSITIONS,
        threads: arguments.threads,
        keep_logits: true,
    })?;
    let mut cases = Vec::new();
    for text in TEXTS {
        let tokens = engine.tokenize(text)?;
        let length = PROMPT_TOKENS + POSITIONS - 1;
        ensure!(tokens.len() >= length, "{} tokens are too few: {text:?}", tokens.len());
        let (prompt, forced) = tokens[..length].split_at(PROMPT_TOKENS);
        cases.push(Case {
            positions: positions(&mut engine, prompt, forced, |_, logits| Position::of(logits))?,
            prompt: prompt.to_vec(),
            forced: forced.to_vec(),
        });
    }
    let golden = Golden {
        file: file_name(&arguments.file)?,
        version: contender::version(Engine::Llama),
        cases,
    };
    let text = serde_json::to_string(&golden)?.replace("{\"log_sum", "\n{\"log_sum") + "\n";
    std::fs::write(&arguments.output, text).with_context(|| format!("{} cannot be written", arguments.output.display()))
}

/// What `seen` makes of the logits after the prompt and after each forced token, by the position's number.
pub(crate) fn positions<T>(
    engine: &mut dyn Contender,
    prompt: &[u32],
    forced: &[u32],
    mut seen: impl FnMut(usize, &[f32]) -> T,
) -> Result<Vec<T>> {
    engine.prefill(&[prompt.to_vec()])?;
    let mut results = vec![seen(0, &engine.logits(0)?)];
    for (index, token) in forced.iter().enumerate() {
        engine.decode(&[*token])?;
        results.push(seen(index + 1, &engine.logits(0)?));
    }
    Ok(results)
}
