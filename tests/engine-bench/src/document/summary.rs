//! The rounds of each cell together.

use crate::contender::Engine;
use crate::measure::{Cell, Phase, median};
use crate::run::results::{Key, Outcome, Results};

/// Middle and extremes of some rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    /// Median.
    pub(super) median: f64,
    /// Least.
    pub(super) least: f64,
    /// Most.
    pub(super) most: f64,
}

impl Spread {
    /// Of values, or `None` if there is none.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: median(values)?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// A row of a table: a type, a batch, a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowKey {
    /// Weight file.
    pub(super) file: String,
    /// Sequences.
    pub(super) batch: usize,
    /// Tokens of each prompt.
    pub(super) prompt: usize,
}

impl RowKey {
    /// The model's part of the file's name.
    pub(super) fn model(&self) -> &str {
        split(&self.file).0
    }

    /// The type's part of the file's name.
    pub(super) fn weight_type(&self) -> &str {
        split(&self.file).1
    }

    /// Whether the weights are integers in blocks.
    pub(super) fn is_quantised(&self) -> bool {
        self.weight_type().starts_with('q')
    }
}

/// `tinyllama-1.1b.q4_0.gguf` is a model and a type.
fn split(file: &str) -> (&str, &str) {
    let name = file.trim_end_matches(".gguf");
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Results, row by row.
pub(super) struct Summary<'results> {
    results: &'results Results,
    /// Rows in the order in which they were measured.
    pub(super) rows: Vec<RowKey>,
}

impl<'results> Summary<'results> {
    /// Of results.
    pub(super) fn of(results: &'results Results) -> Self {
        let mut rows = Vec::new();
        for entry in &results.entries {
            let Key {
                file, batch, prompt, ..
            } = entry.key.clone();
            let row = RowKey { file, batch, prompt };
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        Self { results, rows }
    }

    /// Models in the order of their first rows.
    pub(super) fn models(&self) -> Vec<String> {
        let mut models: Vec<String> = Vec::new();
        for row in &self.rows {
            if !models.iter().any(|model| model == row.model()) {
                models.push(row.model().to_owned());
            }
        }
        models
    }

    /// A model's rows.
    pub(super) fn rows_of(&self, model: &str) -> impl Iterator<Item = &RowKey> {
        self.rows.iter().filter(move |row| row.model() == model)
    }

    /// A cell's rounds that were measured, with the number of the round.
    pub(super) fn cells(&self, row: &RowKey, engine: Engine) -> Vec<(usize, &'results Cell)> {
        let same =
            |key: &&Key| (&key.file, key.batch, key.prompt, key.engine) == (&row.file, row.batch, row.prompt, engine);
        let measured = self.results.measured();
        measured
            .filter(|(key, _)| same(key))
            .map(|(key, cell)| (key.round, cell))
            .collect()
    }

    /// Why a cell is absent.
    pub(super) fn reason(&self, row: &RowKey, engine: Engine) -> Option<&'results str> {
        self.results.entries.iter().find_map(|entry| match &entry.outcome {
            Outcome::Absent { reason }
                if (&entry.key.file, entry.key.batch, entry.key.prompt, entry.key.engine)
                    == (&row.file, row.batch, row.prompt, engine) =>
            {
                Some(reason.as_str())
            }
            _ => None,
        })
    }

    /// A figure of a cell over the rounds that have it.
    pub(super) fn spread(&self, row: &RowKey, engine: Engine, figure: impl Fn(&Cell) -> Option<f64>) -> Option<Spread> {
        let values: Vec<f64> = self
            .cells(row, engine)
            .into_iter()
            .filter_map(|(_, cell)| figure(cell))
            .collect();
        Spread::of(&values)
    }

    /// lem-engine's figure divided by another engine's, round by round.
    pub(super) fn ratio(&self, row: &RowKey, other: Engine, figure: impl Fn(&Cell) -> Option<f64>) -> Option<Spread> {
        let others = self.cells(row, other);
        let ratios: Vec<f64> = self
            .cells(row, Engine::Lem)
            .into_iter()
            .filter_map(|(round, cell)| {
                let (_, other) = others.iter().find(|(other, _)| *other == round)?;
                Some(figure(cell)? / figure(other)?)
            })
            .collect();
        Spread::of(&ratios)
    }

    /// The share of the memory's bandwidth that reading the weights of decode steps takes. Bandwidth is that measured
    /// around the file in the same round.
    pub(super) fn bandwidth_share(&self, row: &RowKey, engine: Engine) -> Option<Spread> {
        let shares: Vec<f64> = self
            .cells(row, engine)
            .into_iter()
            .filter_map(|(round, cell)| {
                let around = self.results.bandwidth.iter();
                let around = around.filter(|entry| entry.round == round && entry.file == row.file);
                let bandwidth: Vec<f64> = around.map(|entry| entry.measured.gigabytes_per_second).collect();
                let steps = cell.decode_rate()? / cell.batch as f64;
                Some(cell.step_weight_bytes as f64 * steps / 1e9 / median(&bandwidth)?)
            })
            .collect();
        Spread::of(&shares)
    }
}

/// Joules per token of a phase's repetitions.
pub(super) fn joules_per_token(phase: &Phase) -> Option<f64> {
    let tokens = phase.tokens_each * phase.seconds.len();
    Some(phase.energy.joules? / tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_a_model_and_a_type() {
        assert_eq!(split("tinyllama-1.1b.q4_0.gguf"), ("tinyllama-1.1b", "q4_0"));
    }
}
