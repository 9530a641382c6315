//! `lem cluster compare`: two experiments of the cluster. Client.

use super::{connection::Connection, experiments};
use crate::{
    command::{
        End,
        compare::{self, How},
    },
    experiment::summary::Summary,
};

/// Options of `lem cluster compare`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The baseline; `NAMESPACE/NAME` for one of another namespace.
    #[arg(value_name = "A")]
    baseline: String,
    /// The candidate; `NAMESPACE/NAME` for one of another namespace.
    #[arg(value_name = "B")]
    candidate: String,
    #[command(flatten)]
    how: How,
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let baseline = load(connection, &arguments.baseline).await?;
    let candidate = load(connection, &arguments.candidate).await?;
    compare::show(
        (&arguments.baseline, &baseline),
        (&arguments.candidate, &candidate),
        &arguments.how,
    )
}

async fn load(connection: &Connection, name: &str) -> anyhow::Result<Summary> {
    let (namespace, name) = name.split_once('/').unwrap_or((&connection.namespace, name));
    let experiment = experiments::get(connection, namespace, name).await?;
    let runners = experiments::runners(connection, &experiment).await?;
    Ok(experiments::results(&experiment, &runners)?.0)
}
