//! `lem report`: results of a folder, aggregated again from their raw facts.

use std::{
    io::{ErrorKind, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::bail;
use clap::ValueEnum;
use lem_crds::{EfficiencyExperiment, RunnerStatus};

use super::{End, color, print_bytes, width};
use crate::{
    experiment::{Record, plan},
    local::{
        results::{Results, ResultsError},
        summary::{self, Summary},
    },
    report::{self, Report},
};

/// Options of `lem report`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Folder of results, such as `results/quickstart`.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table for people.
    Table,
    /// Markdown.
    Markdown,
    /// Everything, as JSON.
    Json,
    /// One row per trial with every metric.
    Csv,
    /// The same as a Parquet file, for data frames.
    Parquet,
    /// A self-contained page with plots.
    Html,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let (experiment, summary, records) = load(&arguments.folder)?;
    show(&experiment, &summary, &records, arguments.output)
}

/// Prints the report of an experiment, wherever it was measured.
pub(super) fn show(
    experiment: &EfficiencyExperiment,
    summary: &Summary,
    records: &[Record],
    format: Format,
) -> anyhow::Result<End> {
    if matches!(format, Format::Parquet) && std::io::stdout().is_terminal() {
        bail!("a Parquet file is nothing for a terminal: write it into a file, as with `> trials.parquet`");
    }
    let bytes = render(experiment, summary, records, |report| {
        Ok(match format {
            Format::Table => report::terminal(report, color(), width()).into_bytes(),
            Format::Markdown => report::markdown(report).into_bytes(),
            Format::Json => report::json(report)?.into_bytes(),
            Format::Csv => report::csv(report)?.into_bytes(),
            Format::Parquet => report::parquet(report)?,
            Format::Html => report::html(report)?.into_bytes(),
        })
    })?;
    print_bytes(&bytes)?;
    Ok(End::of(&summary.status))
}

/// Reads a folder of results and aggregates it.
pub(super) fn load(folder: &Path) -> anyhow::Result<(EfficiencyExperiment, Summary, Vec<Record>)> {
    let (results, experiment) = Results::open(folder).map_err(|error| {
        let absent = matches!(&error, ResultsError::Read { source, .. } if source.kind() == ErrorKind::NotFound);
        let error = anyhow::Error::new(error);
        if absent {
            error.context(format!("{} is not a folder of results of `lem run`", folder.display()))
        } else {
            error
        }
    })?;
    let records = results.records()?;
    let failures = results.failures()?;
    let points = plan(&experiment.spec)?;
    let summary = summary::summarise(&experiment.spec, &points, &records, &failures);
    Ok((experiment, summary, records))
}

/// Writes every form of the report into the folder.
pub(super) fn write_all(
    results: &Results,
    experiment: &EfficiencyExperiment,
    summary: &Summary,
    records: &[Record],
) -> anyhow::Result<()> {
    results.write_json("status.json", &summary.status)?;
    render(experiment, summary, records, |report| {
        results.write("report.html", report::html(report)?.as_bytes())?;
        results.write("report.md", report::markdown(report).as_bytes())?;
        results.write("report.json", report::json(report)?.as_bytes())?;
        results.write("trials.csv", report::csv(report)?.as_bytes())?;
        Ok(())
    })
}

/// Hands the report of an experiment to a renderer.
pub(super) fn render<T>(
    experiment: &EfficiencyExperiment,
    summary: &Summary,
    records: &[Record],
    renderer: impl FnOnce(&Report<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let points = plan(&experiment.spec)?;
    let statuses: Vec<(u32, &RunnerStatus)> = records.iter().map(|record| (record.process, &record.status)).collect();
    renderer(&Report {
        experiment_name: experiment.metadata.name.as_deref().unwrap_or_default(),
        model: &experiment.spec.model.name,
        points: &points,
        status: &summary.status,
        trials: &summary.trials,
        records: &statuses,
        generated_by: concat!("lem ", env!("CARGO_PKG_VERSION")),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_without_results_is_told_apart_from_results_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let said = || format!("{:#}", load(folder.path()).unwrap_err());
        assert!(said().contains("is not a folder of results of `lem run`"), "{}", said());
        let file = folder.path().join("experiment.json");
        fs::create_dir(&file).unwrap();
        let unreadable = said();
        assert!(
            unreadable.starts_with(&format!("failed to read {}: ", file.display())),
            "{unreadable}"
        );
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "{").unwrap();
        let damaged = said();
        assert!(
            damaged.starts_with(&format!("{} is damaged: ", file.display())),
            "{damaged}"
        );
    }
}
