//! `lem validate`: the cluster's rules, and what this machine could not honour.

use std::path::PathBuf;

use super::{End, print};
use crate::{experiment, local::manifest, report::number::counted};

/// Options of `lem validate`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Experiment files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a field before checking, such as `workload.requests=4`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<End> {
    let mut end = End::Valid;
    for file in &arguments.files {
        match manifest::read(file, &arguments.settings) {
            Ok(experiments) => {
                for experiment in experiments {
                    let name = experiment.metadata.name.clone().unwrap_or_default();
                    match experiment::plan(&experiment.spec) {
                        Ok(points) => print(&format!(
                            "{}: {name}: valid, {}\n",
                            file.display(),
                            counted(points.len(), "point", "points")
                        ))?,
                        Err(error) => {
                            eprintln!("error: {}: {name}: {:#}", file.display(), anyhow::Error::new(error));
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
