//! The tables of a model.

use std::fmt::{Result, Write};

use super::summary::{RowKey, Spread, Summary, joules_per_token};
use crate::contender::Engine;
use crate::measure::Cell;

/// Which phase a table is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Decode steps.
    Decode,
    /// Prefills.
    Prefill,
}

impl Measure {
    /// Tokens per second of a cell.
    pub(super) fn rate(self, cell: &Cell) -> Option<f64> {
        match self {
            Self::Decode => cell.decode_rate(),
            Self::Prefill => cell.prefill_rate(),
        }
    }

    /// For headings and sentences.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        }
    }
}

/// Where there is no figure.
const ABSENT: &str = "—";

fn rated(spread: Option<Spread>) -> String {
    let Some(spread) = spread else { return ABSENT.to_owned() };
    let digits = usize::from(spread.median < 100.0);
    let Spread { median, least, most } = spread;
    format!("{median:.digits$} [{least:.digits$}-{most:.digits$}]")
}

fn factor(spread: Option<Spread>) -> String {
    spread.map_or_else(|| ABSENT.to_owned(), |spread| format!("{:.2}", spread.median))
}

fn start(text: &mut String, row: &RowKey) -> Result {
    write!(text, "| {} | {} | {} |", row.weight_type(), row.batch, row.prompt)
}

/// A heading and the head of a table whose first columns name the row.
fn head(text: &mut String, title: &str, columns: &[String]) -> Result {
    writeln!(text, "### {title}\n")?;
    writeln!(text, "| Type | Batch | Prompt | {} |", columns.join(" | "))?;
    writeln!(text, "|---|---:|---:|{}", "---:|".repeat(columns.len()))
}

fn per_engine(what: &str) -> Vec<String> {
    Engine::ALL.map(|engine| format!("{}{what}", engine.title())).to_vec()
}

/// Tokens per second and their ratios.
pub(super) fn rates(text: &mut String, summary: &Summary<'_>, model: &str, measure: Measure) -> Result {
    let mut columns = per_engine("");
    columns.extend(["lem / llama.cpp".to_owned(), "lem / candle".to_owned()]);
    head(text, &format!("{}, tokens/s", measure.name()), &columns)?;
    for row in summary.rows_of(model) {
        start(text, row)?;
        for engine in Engine::ALL {
            write!(
                text,
                " {} |",
                rated(summary.spread(row, engine, |cell| measure.rate(cell)))
            )?;
        }
        for other in [Engine::Llama, Engine::Candle] {
            write!(
                text,
                " {} |",
                factor(summary.ratio(row, other, |cell| measure.rate(cell)))
            )?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

/// The share of the bandwidth that decoding one sequence reaches.
pub(super) fn bandwidth(text: &mut String, summary: &Summary<'_>, model: &str) -> Result {
    let mut columns = vec!["Weights read per step, MB".to_owned()];
    columns.extend(per_engine(""));
    head(
        text,
        "share of the memory's bandwidth, decode of one sequence",
        &columns,
    )?;
    for row in summary.rows_of(model).filter(|row| row.batch == 1) {
        let bytes = |cell: &Cell| Some(cell.step_weight_bytes as f64 / 1e6);
        let bytes = Engine::ALL
            .into_iter()
            .find_map(|engine| summary.spread(row, engine, bytes));
        start(text, row)?;
        let bytes = bytes.map_or_else(|| ABSENT.to_owned(), |bytes| format!("{:.0}", bytes.median));
        write!(text, " {bytes} |")?;
        for engine in Engine::ALL {
            write!(text, " {} |", factor(summary.bandwidth_share(row, engine)))?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

/// Load times, times to the first token of a fresh process, and peak memory.
pub(super) fn memory(text: &mut String, summary: &Summary<'_>, model: &str) -> Result {
    let mut columns = per_engine(" load, s");
    columns.extend(per_engine(" first token, s"));
    columns.push("Weights and cache, MB".to_owned());
    columns.extend(per_engine(" peak"));
    head(
        text,
        "load time, and until the first token; peak memory as a multiple of weights and cache",
        &columns,
    )?;
    for row in summary.rows_of(model) {
        start(text, row)?;
        for engine in Engine::ALL {
            write!(
                text,
                " {} |",
                factor(summary.spread(row, engine, |cell| Some(cell.load_seconds)))
            )?;
        }
        for engine in Engine::ALL {
            let first = |cell: &Cell| Some(cell.load_seconds + cell.prefill.seconds.first()?);
            write!(text, " {} |", factor(summary.spread(row, engine, first)))?;
        }
        let needed = |cell: &Cell| (cell.weight_bytes + cell.cache_bytes) as f64;
        let bytes = Engine::ALL
            .into_iter()
            .find_map(|engine| summary.spread(row, engine, |cell| Some(needed(cell))));
        let bytes = bytes.map_or_else(|| ABSENT.to_owned(), |bytes| format!("{:.0}", bytes.median / 1e6));
        write!(text, " {bytes} |")?;
        for engine in Engine::ALL {
            let multiple = |cell: &Cell| Some(cell.peak_bytes as f64 / needed(cell));
            write!(text, " {} |", factor(summary.spread(row, engine, multiple)))?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

/// Joules per token, or why there are none.
pub(super) fn energy(text: &mut String, summary: &Summary<'_>, model: &str) -> Result {
    let cells = || {
        summary
            .rows_of(model)
            .flat_map(|row| Engine::ALL.map(|engine| summary.cells(row, engine)))
            .flatten()
            .map(|(_, cell)| cell)
    };
    let Some(any) = cells().next() else { return Ok(()) };
    let mut columns = per_engine(" decode");
    columns.extend(per_engine(" prefill"));
    head(text, "J/token", &columns)?;
    let milli = |spread: Option<Spread>| spread.map_or_else(|| ABSENT.to_owned(), |s| format!("{:.4}", s.median));
    for row in summary.rows_of(model) {
        start(text, row)?;
        for phase in [
            |cell: &Cell| joules_per_token(&cell.decode),
            |cell: &Cell| joules_per_token(&cell.prefill),
        ] {
            for engine in Engine::ALL {
                write!(text, " {} |", milli(summary.spread(row, engine, phase)))?;
            }
        }
        writeln!(text)?;
    }
    writeln!(text, "\nEnergy: {}.\n", any.decode.energy.source)
}

/// What was not measured, and why.
pub(super) fn absent(text: &mut String, summary: &Summary<'_>) -> Result {
    writeln!(text, "## Absent cells\n")?;
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for row in &summary.rows {
        for engine in Engine::ALL {
            let Some(reason) = summary.reason(row, engine) else {
                continue;
            };
            let name = row.file.trim_end_matches(".gguf");
            let cell = format!("{name} batch {} prompt {}", row.batch, row.prompt);
            let reason = format!("{}: {reason}", engine.title());
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, cells)) => cells.push(cell),
                None => reasons.push((reason, vec![cell])),
            }
        }
    }
    if reasons.is_empty() {
        writeln!(text, "None.")?;
    }
    for (reason, cells) in reasons {
        writeln!(text, "- {reason} ({})", cells.join("; "))?;
    }
    Ok(())
}
