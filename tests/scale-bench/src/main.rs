//! What a fleet costs the operator and the API server: real control plane, real operator, nodes played by kwok, and
//! processes that speak the real mailbox but pause where they would measure.
//!
//! [`behaviour`] and [`figures`] (pure) say what each node does and reports; [`process`] is one process and [`kubelets`]
//! all of them; [`replica`] runs the operator; [`run`] puts them together; [`outcome`] (pure) holds what came of it against
//! the limits, and [`document`] (pure) writes it down.

mod behaviour;
mod document;
mod figures;
mod fleet;
mod kubelets;
mod outcome;
mod process;
mod replica;
mod run;
mod server;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::{
    outcome::{Asked, Outcome, Thresholds},
    process::Phases,
    run::Tools,
};

/// Runs fleets of simulated nodes against a real control plane and the real operator.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Run fleets and add what they came to to a file.
    Run {
        /// Sizes of the fleets, one run each.
        #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
        nodes: Vec<u32>,
        /// Nodes measured at the same time, as a number or a share.
        #[arg(long, default_value = "20%")]
        concurrent: String,
        /// Windows of each node.
        #[arg(long, default_value_t = 3)]
        cycles: u32,
        /// Decides which nodes crash, hang or have a wrong clock.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Kill the replica that leads every so many seconds.
        #[arg(long, value_name = "SECONDS")]
        kill_every: Option<u64>,
        /// Longest time for one run in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
        limit: u64,
        /// The results of all runs.
        #[arg(long, default_value = "results/scale.json")]
        output: PathBuf,
        /// Where logs of the operator and of kwok go.
        #[arg(long, default_value = "results/scale-logs")]
        logs: PathBuf,
    },
    /// Hold the results against tests/scale-bench/thresholds.yaml.
    Check {
        /// The results of all runs.
        #[arg(long, default_value = "results/scale.json")]
        results: PathBuf,
    },
    /// Write the results down.
    Document {
        /// The results of all runs.
        #[arg(long, default_value = "results/scale.json")]
        results: PathBuf,
        /// The page.
        #[arg(long, default_value = "docs/scale.md")]
        output: PathBuf,
    },
}

/// Longest times of a simulated process's phases.
const PHASES: Phases = Phases {
    baseline: Duration::from_millis(500),
    load: Duration::from_secs(2),
    warmup: Duration::from_millis(500),
    window: Duration::from_secs(2),
};

fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Step::Run {
            nodes,
            concurrent,
            cycles,
            seed,
            kill_every,
            limit,
            output,
            logs,
        } => {
            let asked = nodes.into_iter().map(|nodes| Asked {
                nodes,
                concurrent: concurrent.clone(),
                cycles,
                seed,
                kill_every_seconds: kill_every,
            });
            run_all(asked, Duration::from_secs(limit), &output, &logs)?;
            Ok(ExitCode::SUCCESS)
        }
        Step::Check { results } => check(&read(&results)?),
        Step::Document { results, output } => {
            let page = document::page(&read(&results)?, &thresholds()?);
            fs::write(&output, page).with_context(|| format!("failed to write {}", output.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs one after the other. What a run came to is written before the next begins.
fn run_all(all: impl Iterator<Item = Asked>, limit: Duration, output: &PathBuf, logs: &PathBuf) -> anyhow::Result<()> {
    fs::create_dir_all(logs).with_context(|| format!("failed to create {}", logs.display()))?;
    let own = std::env::current_exe()?;
    let tools = Tools {
        operator: own.with_file_name("lem-operator"),
        repository: repository(),
        logs: logs.clone(),
    };
    for asked in all {
        eprintln!("{} nodes, {} at the same time", asked.nodes, asked.concurrent);
        let runtime = tokio::runtime::Runtime::new()?;
        let outcome = runtime.block_on(run::run(&asked, PHASES, &tools, limit))?;
        // Processes whose pods were not deleted still wait for that.
        runtime.shutdown_background();
        eprintln!(
            "  {} after {:.0} s, {:.1} writes per process, {:.0} MiB, {:.2} processors",
            outcome.phase,
            outcome.seconds,
            outcome.writes_per_process(),
            outcome.operator_peak_resident_mebibytes,
            outcome.operator_cores()
        );
        let mut results = if output.exists() { read(output)? } else { Vec::new() };
        results.retain(|one| one.asked != outcome.asked);
        results.push(outcome);
        results.sort_by_key(|one| (one.asked.kill_every_seconds, one.asked.nodes));
        fs::write(output, serde_json::to_string_pretty(&results)?)
            .with_context(|| format!("failed to write {}", output.display()))?;
    }
    Ok(())
}

fn read(results: &PathBuf) -> anyhow::Result<Vec<Outcome>> {
    let text =
        fs::read(results).with_context(|| format!("failed to read {}: run `make bench-scale`", results.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} holds no results", results.display()))
}

fn thresholds() -> anyhow::Result<Thresholds> {
    let path = repository().join("tests/scale-bench/thresholds.yaml");
    let text = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_yaml::from_slice(&text).with_context(|| format!("{} holds no limits", path.display()))
}

fn check(results: &[Outcome]) -> anyhow::Result<ExitCode> {
    let limits = thresholds()?;
    let each = results.iter().flat_map(|one| one.failings(&limits));
    let failings: Vec<String> = each.chain(outcome::growth(results, &limits)).collect();
    for failing in &failings {
        eprintln!("{failing}");
    }
    Ok(if failings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
