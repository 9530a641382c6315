//! `lem cluster`, which is also `kubectl lem`: experiments on a cluster, with the rights of the user's kubeconfig.
//!
//! Each sub-command is a file. What asks the cluster is apart from what makes text of the answer.

mod cancel;
mod compare;
mod connection;
mod doctor;
mod documents;
mod error;
mod experiments;
mod follow;
mod logs;
mod near;
mod report;
mod run;
mod status;
mod table;

use anyhow::Context;
use clap::Subcommand;

use super::End;

/// Options of `lem cluster`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: connection::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply experiments, follow them to their end, and print the results. Ctrl-C leaves them running.
    Run(run::Arguments),
    /// List experiments, or say all about one: how far it is, why it waits, what its processes do.
    Status(status::Arguments),
    /// Show the results of an experiment.
    Report(report::Arguments),
    /// Compare two experiments on their cycles: ratios with 95 % intervals.
    Compare(compare::Arguments),
    /// Print what the processes of an experiment write.
    Logs(logs::Arguments),
    /// End an experiment for good after the current trial; what was measured stays.
    Cancel(cancel::Arguments),
    /// Check whether this cluster can run experiments, and say how to cure what stands in the way.
    Doctor(doctor::Arguments),
}

/// Runs a sub-command. `program` is what the user types, for the commands that messages propose.
pub(super) fn run(arguments: &Arguments, program: &'static str) -> anyhow::Result<End> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(async {
            if let Command::Run(run) = &arguments.command {
                // A mistake in a file is found without a cluster.
                return run::run(run, &arguments.connection, program).await;
            }
            let connection = arguments.connection.connect(program).await?;
            match &arguments.command {
                Command::Run(_) => Ok(End::Valid),
                Command::Status(arguments) => status::run(arguments, &connection).await,
                Command::Report(arguments) => report::run(arguments, &connection).await,
                Command::Compare(arguments) => compare::run(arguments, &connection).await,
                Command::Logs(arguments) => logs::run(arguments, &connection).await,
                Command::Cancel(arguments) => cancel::run(arguments, &connection).await,
                Command::Doctor(arguments) => doctor::run(arguments, &connection).await,
            }
        })
}
