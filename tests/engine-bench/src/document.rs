//! A Markdown document of the results. Every number in it is computed from them.

mod summary;
mod tables;
mod targets;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::batching::{self, BatchingResults, Pass};
use crate::contender::Engine;
use crate::measure::median;
use crate::run::results::Results;
use summary::{Spread, Summary};

/// What to make of what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// JSON file that `run` wrote
    #[arg(long)]
    results: PathBuf,
    /// JSON file that `batching` wrote; left out of the document if not given
    #[arg(long)]
    batching: Option<PathBuf>,
    /// Markdown file to write
    #[arg(long, default_value = "docs/engine-benchmark.md")]
    output: PathBuf,
}

/// How the figures come about.
const METHOD: &str = "\
Each cell (a file, a batch, a prompt length, an engine) is a process of its own, confined to the CPUs above. Engines are \
interleaved within a round, and which of them comes first rotates. All engines get the same GGUF file and the same random \
token ids, different in each row of a batch; decode steps are teacher-forced, so no engine chooses tokens. lem-engine and \
llama.cpp have keys and values in half precision and take prompts in chunks of 512 tokens; llama.cpp has its defaults \
otherwise (flash attention where it chooses it, repacked weights, memory mapping) and a separate cache for each sequence. \
candle is used as it is: `quantized_llama` for block types, `llama` for floats (as 32-bit floats, which are \
faster there than brain floats), a prompt at once. Everything is compiled for this processor (`target-cpu=native`, \
llama.cpp with `-O3 -march=native` and OpenMP).

A rate is that of the median step (decode) or the median prefill but the first, which is cold. Tables give the median of \
the rounds and, in brackets, the least and the most. A ratio is the median of the rounds' ratios. Bandwidth is that of \
reading large buffers with as many threads, measured before and after each file's cells. Peak memory is the process's \
largest resident set, pages of the mapped file included, divided by the bytes of the file's tensors and of the keys and \
values of all positions in half precision.";

/// Makes the document.
pub(crate) fn document(arguments: &Arguments) -> Result<()> {
    let results = Results::read(&arguments.results)?;
    let batching = arguments.batching.as_deref().map(BatchingResults::read).transpose()?;
    std::fs::write(&arguments.output, text(&results, batching.as_ref())?)
        .with_context(|| format!("{} cannot be written", arguments.output.display()))
}

fn text(results: &Results, batching: Option<&BatchingResults>) -> Result<String> {
    let summary = Summary::of(results);
    let mut text = String::from("# Engines side by side\n\n");
    text += "Made by `make bench-engine` from its results; not edited by hand.\n\n";
    conditions(&mut text, results)?;
    writeln!(text, "\n{METHOD}\n")?;
    for model in summary.models() {
        writeln!(text, "## {model}\n")?;
        tables::rates(&mut text, &summary, &model, tables::Measure::Decode)?;
        tables::rates(&mut text, &summary, &model, tables::Measure::Prefill)?;
        tables::bandwidth(&mut text, &summary, &model)?;
        tables::memory(&mut text, &summary, &model)?;
        tables::energy(&mut text, &summary, &model)?;
    }
    if let Some(batching) = batching {
        batching_section(&mut text, batching)?;
    }
    targets::short_cells(&mut text, &summary)?;
    tables::absent(&mut text, &summary)?;
    Ok(text)
}

fn conditions(text: &mut String, results: &Results) -> Result<()> {
    let rounds = results
        .entries
        .iter()
        .map(|entry| entry.key.round + 1)
        .max()
        .unwrap_or(0);
    let bandwidth: Vec<f64> = results
        .bandwidth
        .iter()
        .map(|entry| entry.measured.gigabytes_per_second)
        .collect();
    writeln!(text, "| | |\n|---|---|")?;
    writeln!(text, "| Begun | {} |", results.began)?;
    writeln!(text, "| Processor | {} |", results.processor)?;
    writeln!(text, "| CPUs | {:?} |", results.cpus)?;
    writeln!(text, "| Threads | {} |", results.threads)?;
    for engine in Engine::ALL {
        if let Some(version) = results.versions.get(&engine) {
            writeln!(text, "| {} | {version} |", engine.title())?;
        }
    }
    writeln!(text, "| Rounds | {rounds} |")?;
    writeln!(text, "| Decode steps | {} |", results.decode_steps)?;
    let least = bandwidth.iter().copied().fold(f64::INFINITY, f64::min);
    let most = bandwidth.iter().copied().fold(0.0, f64::max);
    if let Some(median) = median(&bandwidth) {
        writeln!(text, "| Read bandwidth, GB/s | {median:.1} [{least:.1}-{most:.1}] |")?;
    }
    Ok(())
}

fn batching_section(text: &mut String, results: &BatchingResults) -> Result<()> {
    let BatchingResults {
        file,
        requests,
        sequences,
        threads,
        ..
    } = results;
    let what = "no round of batching was measured";
    let rate = |passes: &[Pass]| {
        let rates: Vec<f64> = passes.iter().map(|pass| pass.tokens as f64 / pass.seconds).collect();
        Spread::of(&rates).context(what)
    };
    let (fixed, continuous) = (rate(&results.static_batches)?, rate(&results.continuous)?);
    let ratio = Spread::of(&results.ratios()).context(what)?;
    let shares = Spread::of(&results.scheduler_shares()).context(what)?;
    writeln!(
        text,
        "## Continuous batching\n\n\
         {requests} requests of mixed lengths ({prompt:?} tokens of prompt, {output:?} of output, drawn evenly), all there at the \
         beginning, {sequences} at once, {file}, {threads} threads, {rounds} rounds, alternating. Prompt and output tokens per \
         second: {continuous_rate:.0} [{:.0}-{:.0}] under continuous batching, {static_rate:.0} [{:.0}-{:.0}] in static batches \
         of {sequences}; ratio {:.2} [{:.2}-{:.2}]. The scheduler takes {:.3} % [{:.3}-{:.3}] of the time (target: less than \
         1 %).\n",
        continuous.least,
        continuous.most,
        fixed.least,
        fixed.most,
        ratio.median,
        ratio.least,
        ratio.most,
        100.0 * shares.median,
        100.0 * shares.least,
        100.0 * shares.most,
        prompt = batching::PROMPT_TOKENS,
        output = batching::OUTPUT_TOKENS,
        rounds = results.continuous.len(),
        continuous_rate = continuous.median,
        static_rate = fixed.median,
    )?;
    Ok(())
}
