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

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use kube::{ResourceExt, api::ListParams};

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
                Command::Logs(arguments) => Box::pin(logs::run(arguments, &connection)).await,
                Command::Cancel(arguments) => cancel::run(arguments, &connection).await,
                Command::Doctor(arguments) => doctor::run(arguments, &connection).await,
            }
        })
}

/// How long a completion may take: a shell waits for it.
const COMPLETION_LIMIT: Duration = Duration::from_secs(2);

/// Names of experiments, for completion; none where the cluster does not say them at once. `words` are those that were
/// typed, of which options of the cluster are heeded.
pub(super) fn names(words: &[String]) -> Vec<String> {
    let value = |long: &str, short: Option<&str>| {
        let given = words.iter().zip(words.iter().skip(1));
        let apart = given.filter(|(option, _)| *option == long || Some(option.as_str()) == short);
        let joined = words
            .iter()
            .filter_map(|word| word.strip_prefix(long)?.strip_prefix('='));
        apart
            .map(|(_, value)| value.as_str())
            .chain(joined)
            .last()
            .map(ToOwned::to_owned)
    };
    let options = connection::Options {
        namespace: value("--namespace", Some("-n")),
        context: value("--context", None),
        kubeconfig: value("--kubeconfig", None).map(Into::into),
    };
    let ask = async {
        let connection = options.connect("kubectl lem").await.ok()?;
        let api = connection.api::<lem_crds::EfficiencyExperiment>(&connection.namespace);
        let found = api.list_metadata(&ListParams::default()).await.ok()?;
        Some(found.items.iter().map(ResourceExt::name_any).collect())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .ok()
        .and_then(|runtime| {
            runtime.block_on(async { tokio::time::timeout(COMPLETION_LIMIT, ask).await.ok().flatten() })
        })
        .unwrap_or_default()
}
