//! `lem cluster report`: results from the objects of the cluster. Client.

use super::{connection::Connection, experiments};
use crate::command::{
    End,
    report::{self, Format},
};

/// Options of `lem cluster report`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Name of the experiment.
    name: String,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) async fn run(arguments: &Arguments, connection: &Connection) -> anyhow::Result<End> {
    let experiment = experiments::get(connection, &connection.namespace, &arguments.name).await?;
    let runners = experiments::runners(connection, &experiment).await?;
    let (summary, records) = experiments::results(&experiment, &runners)?;
    report::show(&experiment, &summary, &records, arguments.output)
}
