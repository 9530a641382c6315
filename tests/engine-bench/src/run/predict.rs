//! How long a cell will take, so that one beyond the limit is not begun.

use std::path::Path;

use anyhow::Result;

use super::results::{Key, Results};
use crate::contender::Weights;

/// Multiply-adds per second where nothing has been measured yet; every engine on two cores of a server is faster.
const PESSIMISTIC_RATE: f64 = 5e9;
/// Long prompts cost more per token than short ones: attention.
const ATTENTION_FACTOR: f64 = 1.5;

/// Seconds of a cold prefill and one warm one, from the engine's own figures with the same file if there are any.
pub(super) fn predicted_seconds(results: &Results, key: &Key, path: &Path) -> Result<f64> {
    let seconds_per_token = results
        .measured()
        .filter(|(measured, _)| measured.file == key.file && measured.engine == key.engine)
        .filter_map(|(_, cell)| {
            let best = cell.prefill.seconds.iter().copied().reduce(f64::min)?;
            Some(best / cell.prefill.tokens_each as f64)
        })
        .reduce(f64::max);
    let tokens = (key.batch * key.prompt) as f64;
    let per_token = match seconds_per_token {
        Some(seconds) => seconds * ATTENTION_FACTOR,
        None => Weights::open(path)?.matrix_elements() as f64 / PESSIMISTIC_RATE,
    };
    Ok(2.0 * tokens * per_token)
}
