//! The results file, which is written after every cell.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;
use crate::contender::Engine;
use crate::measure::Cell;

/// Everything that was measured, and under which conditions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    /// When the run began, UTC.
    pub(crate) began: String,
    /// Processor.
    pub(crate) processor: String,
    /// CPUs that the processes were confined to.
    pub(crate) cpus: Vec<usize>,
    /// Threads of each engine.
    pub(crate) threads: usize,
    /// Decode steps of a cell.
    pub(crate) decode_steps: usize,
    /// Seconds that a cell may take after loading.
    pub(crate) time_limit_seconds: f64,
    /// Versions of the engines.
    pub(crate) versions: BTreeMap<Engine, String>,
    /// Bandwidth before and after each file.
    pub(crate) bandwidth: Vec<BandwidthEntry>,
    /// Cells.
    pub(crate) entries: Vec<Entry>,
}

/// The memory's bandwidth before or after a file's cells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BandwidthEntry {
    /// Round, from 0.
    pub(crate) round: usize,
    /// Weight file.
    pub(crate) file: String,
    /// Before or after.
    pub(crate) side: Side,
    /// Bandwidth.
    pub(crate) measured: Bandwidth,
}

/// Before or after the cells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Before.
    Before,
    /// After.
    After,
}

/// Which cell, in which round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Round, from 0.
    pub(crate) round: usize,
    /// Weight file.
    pub(crate) file: String,
    /// Sequences.
    pub(crate) batch: usize,
    /// Tokens of each prompt.
    pub(crate) prompt: usize,
    /// Engine.
    pub(crate) engine: Engine,
}

impl Key {
    /// Whether both are the same cell, in whatever rounds.
    pub(crate) fn same_cell(&self, other: &Self) -> bool {
        (&self.file, self.batch, self.prompt, self.engine) == (&other.file, other.batch, other.prompt, other.engine)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.file.trim_end_matches(".gguf");
        let (batch, prompt, engine) = (self.batch, self.prompt, self.engine.name());
        write!(formatter, "round {} {name} b{batch} p{prompt} {engine}", self.round)
    }
}

/// A cell of one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Which.
    pub(crate) key: Key,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What came of a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Figures.
    Measured(Box<Cell>),
    /// No figures.
    Absent {
        /// Why.
        reason: String,
    },
}

impl Results {
    /// Reads the file, or takes `fresh` if there is none. Figures of other versions or another machine do not mix.
    pub(super) fn open(path: &Path, fresh: Self) -> Result<Self> {
        if !path.exists() {
            return Ok(fresh);
        }
        let found = Self::read(path)?;
        let conditions = |results: &Self| {
            let Self {
                processor,
                cpus,
                threads,
                decode_steps,
                versions,
                ..
            } = results.clone();
            (processor, cpus, threads, decode_steps, versions)
        };
        ensure!(
            conditions(&found) == conditions(&fresh),
            "{} has figures of another machine, other settings or other versions ({:?}): move it away to start anew",
            path.display(),
            found.versions
        );
        Ok(found)
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let what = || format!("{} cannot be read", path.display());
        serde_json::from_str(&fs::read_to_string(path).with_context(what)?).with_context(what)
    }

    /// Writes the file anew, beside its place first.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let what = || format!("{} cannot be written", path.display());
        let part = path.with_extension("part");
        fs::write(&part, serde_json::to_string_pretty(self)?).with_context(what)?;
        fs::rename(&part, path).with_context(what)
    }

    /// Whether a cell is there already.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.entries.iter().any(|entry| entry.key == *key)
    }

    /// Why a cell was absent in an earlier round.
    pub(super) fn absent_before(&self, key: &Key) -> Option<&str> {
        self.entries.iter().find_map(|entry| match &entry.outcome {
            Outcome::Absent { reason } if entry.key.same_cell(key) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Measured cells.
    pub(crate) fn measured(&self) -> impl Iterator<Item = (&Key, &Cell)> {
        self.entries.iter().filter_map(|entry| match &entry.outcome {
            Outcome::Measured(cell) => Some((&entry.key, &**cell)),
            Outcome::Absent { .. } => None,
        })
    }
}
