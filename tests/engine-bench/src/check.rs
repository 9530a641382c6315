//! Whether lem-engine computes what llama.cpp computed, within what both round.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::contender::{self, Engine, Load};
use crate::golden::positions;
use crate::golden::record::{Difference, Golden, NEAR, divergence_limit};

/// What to compare.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// GGUF file
    #[arg(long)]
    file: PathBuf,
    /// Recorded logits, as `golden` writes them
    #[arg(long)]
    golden: PathBuf,
    /// Threads to compute with
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Engine to compare
    #[arg(long, value_enum, default_value_t = Engine::Lem)]
    engine: Engine,
    /// Largest mean divergence that passes, nats; by the file's type if left out
    #[arg(long)]
    divergence_limit: Option<f64>,
}

/// Compares and prints.
pub(crate) fn check(arguments: &Arguments) -> Result<ExitCode> {
    let what = || format!("{} cannot be read", arguments.golden.display());
    let text = std::fs::read_to_string(&arguments.golden).with_context(what)?;
    let golden: Golden = serde_json::from_str(&text).with_context(what)?;
    let length = golden
        .cases
        .iter()
        .map(|case| case.prompt.len() + case.forced.len())
        .max();
    let mut engine = contender::load(
        arguments.engine,
        &Load {
            path: &arguments.file,
            rows: 1,
            positions: length.context("the record is empty")?,
            threads: arguments.threads,
            keep_logits: true,
        },
    )?;
    let mut differences = Vec::new();
    for case in &golden.cases {
        let compared = positions(engine.as_mut(), &case.prompt, &case.forced, |index, logits| {
            Difference::between(&case.positions[index], logits)
        })?;
        differences.extend(compared);
    }
    let limit = arguments
        .divergence_limit
        .unwrap_or_else(|| divergence_limit(&golden.file));
    let versions = [contender::version(arguments.engine), golden.version.clone()];
    Ok(verdict(versions, &golden.file, &differences, limit))
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn verdict([found, recorded]: [String; 2], file: &str, differences: &[Difference], limit: f64) -> ExitCode {
    let count = differences.len();
    let same = differences.iter().filter(|difference| difference.same_choice).count();
    let near = differences.iter().filter(|difference| difference.near_choice).count();
    let mean = differences.iter().map(|difference| difference.divergence).sum::<f64>() / count as f64;
    let most = differences
        .iter()
        .map(|difference| difference.divergence)
        .fold(0.0, f64::max);
    println!(
        "{found} and {recorded} ({file}): same choice at {same} of {count} positions, each choice in the other's {NEAR} \
         best at {near}, divergence {mean:.2e} nats in the mean (limit {limit:.2e}), {most:.2e} at most"
    );
    if near == count && mean <= limit {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
