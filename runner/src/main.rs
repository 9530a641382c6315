//! The measuring process. `lem` and the operator start it; it is of little use by hand.

use std::{net::SocketAddr, os::unix::process::CommandExt, path::Path, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use lem_runner::{
    energy::{self, MeterConfig},
    engine::threads,
    environment,
    mailbox::StandardStreams,
    metrics::LiveMetrics,
    protocol,
};
use tracing_subscriber::EnvFilter;

/// Measures one process: loads a model, runs windows, meters energy, reports raw facts.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read assignments from standard input and write reports to standard output, one JSON object per line.
    Run {
        /// Serve live counters at this address under /metrics.
        #[arg(long, value_name = "ADDRESS", env = "LEM_METRICS_ADDRESS")]
        metrics_address: Option<SocketAddr>,
        /// Exit when no assignment comes for so many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        idle_bound: u64,
    },
    /// Print the GPUs that can be metered here, as a JSON list of their UUIDs and products.
    Gpus,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(error) = with_thread_limits() {
        eprintln!("lem-runner: failed to start again with thread limits: {error}");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_env("LEM_LOG").unwrap_or_else(|_| EnvFilter::new("warn")))
        .init();
    let outcome = match arguments.command {
        Command::Run {
            metrics_address,
            idle_bound,
        } => run(metrics_address, Duration::from_secs(idle_bound)),
        Command::Gpus => print_gpus(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lem-runner: {}", protocol::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Thread pools read their size from the environment when they start, and a process cannot change its environment
/// safely: so it starts itself again, once.
fn with_thread_limits() -> Option<std::io::Error> {
    let limits = threads::thread_environment(Path::new("/"));
    if limits.iter().all(|(name, _)| std::env::var_os(name).is_some()) {
        return None;
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Some(error),
    };
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    for (name, value) in limits {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    Some(command.exec())
}

fn run(metrics_address: Option<SocketAddr>, idle_bound: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let metrics = LiveMetrics::default();
    if let Some(address) = metrics_address {
        metrics.serve(address)?;
    }
    let mut mailbox = StandardStreams::open()?;
    protocol::run(&mut mailbox, &metrics, idle_bound)?;
    Ok(())
}

fn print_gpus() -> Result<(), Box<dyn std::error::Error>> {
    let config = MeterConfig {
        cpu: energy::CpuMetering::Off,
        ..MeterConfig::from_environment(environment::node_name())
    };
    let gpus: Vec<_> = energy::open(&config)?
        .devices
        .into_iter()
        .map(|device| serde_json::json!({"uuid": device.uuid, "product": device.product}))
        .collect();
    serde_json::to_writer(std::io::stdout().lock(), &gpus)?;
    Ok(())
}
