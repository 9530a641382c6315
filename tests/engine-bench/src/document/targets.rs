//! What lem-engine is to reach, and where it does not.

use std::fmt::{Result, Write};

use super::summary::{RowKey, Summary};
use super::tables::Measure;
use crate::contender::Engine;

/// A decode of one sequence is bound by the memory if it takes this share of its bandwidth.
const MEMORY_BOUND_SHARE: f64 = 0.8;

/// A ratio of rates, and what it is to be.
struct Target {
    measure: Measure,
    other: Engine,
    least: f64,
}

/// The targets of a row.
fn targets(summary: &Summary<'_>, row: &RowKey) -> Vec<Target> {
    let memory_bound = summary
        .bandwidth_share(row, Engine::Lem)
        .is_some_and(|share| share.median >= MEMORY_BOUND_SHARE);
    let decode = match row.batch {
        1 if memory_bound => 0.95,
        1 => 1.0,
        _ => 1.3,
    };
    let prefill = if row.weight_type() == "q4_1" { 1.5 } else { 1.0 };
    let target = |measure, other, least| Target { measure, other, least };
    let mut targets = vec![
        target(Measure::Decode, Engine::Llama, decode),
        target(Measure::Prefill, Engine::Llama, prefill),
    ];
    if row.is_quantised() {
        targets.push(target(Measure::Decode, Engine::Candle, 2.0));
        targets.push(target(Measure::Prefill, Engine::Candle, 2.0));
    }
    targets
}

/// The cells that fall short.
pub(super) fn short_cells(text: &mut String, summary: &Summary<'_>) -> Result {
    writeln!(text, "## Cells that fall short\n")?;
    writeln!(
        text,
        "Targets against llama.cpp: decode 1.0 with one sequence (0.95 where reading weights takes at least \
         {MEMORY_BOUND_SHARE} of the bandwidth), 1.3 with several; prefill 1.0, and 1.5 for q4_1. Against candle: 2 for \
         block types.\n"
    )?;
    let (mut compared, mut short) = (0, 0);
    for row in &summary.rows {
        for Target { measure, other, least } in targets(summary, row) {
            let Some(ratio) = summary.ratio(row, other, |cell| measure.rate(cell)) else {
                continue;
            };
            compared += 1;
            if ratio.median >= least {
                continue;
            }
            short += 1;
            writeln!(
                text,
                "- {} batch {} prompt {}: {} is {:.2} [{:.2}-{:.2}] times {}, the target is {least}",
                row.file.trim_end_matches(".gguf"),
                row.batch,
                row.prompt,
                measure.name(),
                ratio.median,
                ratio.least,
                ratio.most,
                other.title()
            )?;
        }
    }
    writeln!(text, "\n{short} of {compared} ratios fall short.\n")
}
