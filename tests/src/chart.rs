//! The generated files of the charts: templates of the definitions, and the READMEs. Pure, but for [`generated`].

mod definition;
mod readme;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub use self::{
    definition::template,
    readme::{ReadmeError, readme},
};

/// The charts of the repository.
pub const CHARTS: [&str; 2] = ["lem", "lem-crds"];

/// Why the generated files could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file that they are made from.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The definitions.
    #[error("failed to write a custom resource definition as YAML")]
    Definition(#[source] serde_yaml::Error),
    /// The README of a chart.
    #[error("failed to describe the values of the chart {chart}")]
    Readme {
        /// Which.
        chart: &'static str,
        /// Why.
        #[source]
        source: ReadmeError,
    },
}

/// Every generated file of the charts in a repository, with its content.
///
/// # Errors
/// A file is missing, or a value has no comment.
pub fn generated(repository: &Path) -> Result<Vec<(PathBuf, String)>, GenerateError> {
    let charts = repository.join("charts");
    let mut files = Vec::new();
    for (name, yaml) in lem_crds::custom_resource_definitions().map_err(GenerateError::Definition)? {
        let path = charts.join("lem-crds/templates").join(format!("{name}.yaml"));
        files.push((path, template(&yaml)));
    }
    for chart in CHARTS {
        let read = |file: &str| {
            let path = charts.join(chart).join(file);
            fs::read_to_string(&path).map_err(|source| GenerateError::Read { path, source })
        };
        let text = readme(&read("README.md.in")?, &read("values.yaml")?)
            .map_err(|source| GenerateError::Readme { chart, source })?;
        files.push((charts.join(chart).join("README.md"), text));
    }
    Ok(files)
}
