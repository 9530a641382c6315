//! `lem validate`: the cluster's rules, and what this machine could not honour.

use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use kube::ResourceExt;
use lem_crds::{EfficiencyExperiment, plan::Point};

use super::{End, print};
use crate::{
    controller::{
        prepare,
        schedule::{self, clock::Clock},
    },
    experiment,
    local::manifest::{self, Document},
    report::number::counted,
};

/// Options of `lem validate`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Files with experiments and schedules.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field before checking, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    settings: Vec<String>,
    /// Check for a cluster: also refuse what its operator would, such as files that pods do not have.
    #[arg(long)]
    cluster: bool,
}

/// The points of an experiment that can run, on a cluster or anywhere.
pub(super) fn plan(experiment: &EfficiencyExperiment, cluster: bool) -> anyhow::Result<Vec<Point>> {
    // For a cluster only, so whoever writes one means a cluster.
    prepare::pod_patch(&experiment.spec)?;
    if cluster {
        prepare::for_pods(&experiment.spec)?;
    }
    Ok(experiment::plan(&experiment.spec)?)
}

/// What is said of a document that can run.
fn described(document: &Document, cluster: bool) -> anyhow::Result<String> {
    let points = |points: Vec<Point>| counted(points.len(), "point", "points");
    match document {
        Document::Experiment(experiment) => Ok(points(plan(experiment, cluster)?)),
        Document::Schedule(schedule) => {
            let (now, spec) = (Timestamp::now(), &schedule.spec);
            let clock = Clock::new(&spec.schedule, spec.time_zone.as_deref()).map_err(anyhow::Error::msg)?;
            let next = clock
                .next_after(now)
                .with_context(|| format!("spec.schedule: {:?} never comes", spec.schedule))?;
            // There are schedules on clusters only.
            let planned = plan(&schedule::experiment(schedule, next), true).context("spec.experimentTemplate")?;
            let zone = spec.time_zone.as_deref().unwrap_or("UTC");
            let next = next.in_tz(zone)?.strftime("%Y-%m-%d %H:%M %Z");
            Ok(format!("{} each time, next at {next}", points(planned)))
        }
    }
}

fn name(document: &Document) -> String {
    match document {
        Document::Experiment(experiment) => experiment.name_any(),
        Document::Schedule(schedule) => schedule.name_any(),
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let settings = match manifest::settings(&arguments.settings) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(End::Invalid);
        }
    };
    let mut end = End::Valid;
    for file in &arguments.files {
        match manifest::read_all(file, &settings) {
            Ok(documents) => {
                for (place, document) in documents {
                    let name = name(&document);
                    match described(&document, arguments.cluster) {
                        Ok(words) => print(&format!("{place}: {name}: valid, {words}\n"))?,
                        Err(error) => {
                            eprintln!("error: {place}: {name}: {error:#}");
                            end = End::Invalid;
                        }
                    }
                }
            }
            Err(errors) => {
                for error in errors {
                    eprintln!("error: {:#}", anyhow::Error::new(error));
                }
                end = End::Invalid;
            }
        }
    }
    Ok(end)
}
