//! Renders results for people and programs: terminal, Markdown, CSV, Parquet, JSON and one self-contained HTML page.
//!
//! Pure: every function takes a [`Report`] and gives text or bytes. A number is written with the digits that its 95 % interval
//! supports; a null is written as `—`, and the reason stands below it. Names come from users and are never trusted.

mod choice;
mod comparison;
mod csv;
mod facts;
#[cfg(test)]
pub(crate) mod fixture;
mod fleet;
mod headline;
mod html;
mod json;
mod markdown;
pub(crate) mod number;
mod parquet;
mod terminal;
mod trials;

use lem_crds::{EfficiencyExperimentStatus, RunnerStatus, plan::Point, status::PointResult};

use crate::experiment::summary::MeasuredTrial;

pub(crate) use self::facts::printable;
pub use self::{
    comparison::{ComparisonRow, Conclusion, comparison_json, comparison_markdown, comparison_terminal},
    csv::csv,
    html::html,
    json::{JSON_SCHEMA_VERSION, json},
    markdown::markdown,
    parquet::parquet,
    terminal::terminal,
};

/// Everything that a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// Name of the experiment.
    pub experiment_name: &'a str,
    /// Name of the model.
    pub model: &'a str,
    /// The plan of each point, also of those for which the status has no room.
    pub points: &'a [Point],
    /// The result per point.
    pub status: &'a EfficiencyExperimentStatus,
    /// The result per trial.
    pub trials: &'a [MeasuredTrial],
    /// The record of each process, each with its index.
    pub records: &'a [(u32, &'a RunnerStatus)],
    /// Program and version that makes the report.
    pub generated_by: &'a str,
}

impl Report<'_> {
    fn point(&self, index: u32) -> Option<&PointResult> {
        self.status.points.iter().find(|point| point.index == index)
    }
}

/// Why a report could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A row could not be written as CSV.
    #[error("a trial could not be written as CSV")]
    Csv(#[source] ::csv::Error),
    /// The CSV writer did not give its text back.
    #[error("the CSV text could not be completed: {0}")]
    CsvIncomplete(String),
    /// The trials could not be written as Parquet.
    #[error("the trials could not be written as Parquet")]
    Parquet(#[source] ::parquet::errors::ParquetError),
    /// The result could not be written as JSON.
    #[error("the result could not be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The HTML template could not be filled.
    #[error("the HTML page could not be rendered")]
    Html(#[source] minijinja::Error),
}
