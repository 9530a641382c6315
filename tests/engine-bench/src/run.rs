//! The matrix: every cell in a process of its own, engines interleaved within each round, bandwidth around each file.

mod child;
mod matrix;
mod predict;
pub(crate) mod results;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::contender::{self, Engine};
use crate::system;
use child::Children;
use matrix::{FILES, SHAPES};
use predict::predicted_seconds;
use results::{BandwidthEntry, Entry, Key, Outcome, Results, Side};

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Folder with the weight files
    #[arg(long, default_value = "models/bench")]
    files: PathBuf,
    /// JSON file with the results; if it exists, the run goes on from it
    #[arg(long)]
    output: PathBuf,
    /// Times that everything is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure only cells whose name contains this, for example tinyllama-1.1b.q4_0 or "b1 p128"
    #[arg(long)]
    only: Option<String>,
    /// Seconds that a cell may take after loading; one that would take longer is left out, with the reason
    #[arg(long, default_value_t = 240.0)]
    time_limit_per_cell: f64,
    /// Measure batch 8 with 2048 tokens on the large model too, which takes hours
    #[arg(long)]
    all_cells: bool,
    /// Decode steps of each cell
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Threads to compute with
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// CPUs to run on, for example 0,1; the first ones if left out
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

/// Runs what is not in the results yet.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let cpus = if arguments.cpus.is_empty() {
        system::first_cpus(arguments.threads)?
    } else {
        arguments.cpus.clone()
    };
    let children = Children {
        threads: arguments.threads,
        cpus: cpus.clone(),
        decode: arguments.decode,
        time_limit: arguments.time_limit_per_cell,
    };
    let mut results = Results::open(&arguments.output, fresh(arguments, cpus))?;
    for round in 0..arguments.rounds {
        for file in FILES {
            group(arguments, &children, &mut results, round, file)?;
        }
    }
    results.save(&arguments.output)
}

fn fresh(arguments: &Arguments, cpus: Vec<usize>) -> Results {
    Results {
        began: jiff::Timestamp::now().to_string(),
        processor: system::processor(),
        cpus,
        threads: arguments.threads,
        decode_steps: arguments.decode,
        time_limit_seconds: arguments.time_limit_per_cell,
        versions: Engine::ALL
            .into_iter()
            .map(|engine| (engine, contender::version(engine)))
            .collect(),
        bandwidth: Vec::new(),
        entries: Vec::new(),
    }
}

/// One file in one round.
fn group(arguments: &Arguments, children: &Children, results: &mut Results, round: usize, file: &str) -> Result<()> {
    let mut keys = Vec::new();
    for (index, (batch, prompt)) in SHAPES.into_iter().enumerate() {
        let mut engines = Engine::ALL;
        // Each comes first, second and third equally often: whoever runs after a hot neighbour is not always the same.
        engines.rotate_left((round + index) % Engine::ALL.len());
        keys.extend(engines.map(|engine| Key {
            round,
            file: file.to_owned(),
            batch,
            prompt,
            engine,
        }));
    }
    keys.retain(|key| {
        arguments
            .only
            .as_ref()
            .is_none_or(|part| key.to_string().contains(part))
    });
    keys.retain(|key| !results.has(key));
    if keys.is_empty() {
        return Ok(());
    }
    into_page_cache(&arguments.files.join(file));
    bandwidth(arguments, children, results, round, file, Side::Before)?;
    for key in keys {
        let outcome = outcome(arguments, children, results, &key)?;
        match &outcome {
            Outcome::Measured(cell) => eprintln!("{key}: {}", cell.summary()),
            Outcome::Absent { reason } => eprintln!("{key}: absent: {reason}"),
        }
        results.entries.push(Entry { key, outcome });
        results.save(&arguments.output)?;
    }
    bandwidth(arguments, children, results, round, file, Side::After)
}

/// Reads a file once, so that none of the engines pays for the disk. Whether it can be read is seen later.
fn into_page_cache(path: &Path) {
    let _ = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
}

fn bandwidth(
    arguments: &Arguments,
    children: &Children,
    results: &mut Results,
    round: usize,
    file: &str,
    side: Side,
) -> Result<()> {
    let measured = children.bandwidth()?;
    eprintln!("memory: {:.1} GB/s", measured.gigabytes_per_second);
    results.bandwidth.push(BandwidthEntry {
        round,
        file: file.to_owned(),
        side,
        measured,
    });
    results.save(&arguments.output)
}

fn outcome(arguments: &Arguments, children: &Children, results: &Results, key: &Key) -> Result<Outcome> {
    let absent = |reason: String| Ok(Outcome::Absent { reason });
    let path = arguments.files.join(&key.file);
    if !path.exists() {
        return absent("the file does not exist: `lem-engine-bench files` writes it".to_owned());
    }
    if matrix::is_longest(key) && !arguments.all_cells {
        return absent("left out unless --all-cells is given: it takes many minutes".to_owned());
    }
    // What cannot be computed in one round cannot in the next.
    if let Some(reason) = results.absent_before(key) {
        return absent(reason.to_owned());
    }
    let predicted = predicted_seconds(results, key, &path).with_context(|| format!("{key} cannot be predicted"))?;
    if predicted > arguments.time_limit_per_cell {
        return absent(format!(
            "its cold prefill and one warm one would take about {predicted:.0} s, the limit is {:.0} s",
            arguments.time_limit_per_cell
        ));
    }
    children.measure(key, &path)
}
