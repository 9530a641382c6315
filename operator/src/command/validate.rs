//! `lem validate`: the cluster's rules, and what this machine could not honour.

use std::path::PathBuf;

use lem_crds::{EfficiencyExperiment, plan::Point};

use super::{End, print};
use crate::{controller::prepare, experiment, local::manifest, report::number::counted};

/// Options of `lem validate`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Experiment files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field before checking, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
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

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let mut end = End::Valid;
    for file in &arguments.files {
        match manifest::read(file, &arguments.settings) {
            Ok(experiments) => {
                for experiment in experiments {
                    let name = experiment.metadata.name.clone().unwrap_or_default();
                    match plan(&experiment, arguments.cluster) {
                        Ok(points) => print(&format!(
                            "{}: {name}: valid, {}\n",
                            file.display(),
                            counted(points.len(), "point", "points")
                        ))?,
                        Err(error) => {
                            eprintln!("error: {}: {name}: {error:#}", file.display());
                            end = End::Invalid;
                        }
                    }
                }
            }
            Err(error) => {
                eprintln!("error: {:#}", anyhow::Error::new(error));
                end = End::Invalid;
            }
        }
    }
    Ok(end)
}
