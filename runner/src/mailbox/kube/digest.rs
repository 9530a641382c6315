//! The last word of a pod, kept by the kubelet even where the API server could not be reached: at most 4 KiB in the
//! container's termination message.

use std::{fs, path::Path};

use lem_crds::RunnerStatus;
use serde_json::json;

/// What a termination message may hold.
const LIMIT: usize = 4096;

/// Writes the digest, if there is a place for it.
pub fn write_digest(path: &Path, status: &RunnerStatus) {
    if path.exists()
        && let Err(error) = fs::write(path, digest(status))
    {
        tracing::warn!(%error, "the termination message could not be written");
    }
}

/// Phase, error, and the windows' headline figures, newest windows first, as many as fit.
fn digest(status: &RunnerStatus) -> String {
    let message = status
        .error
        .as_ref()
        .map(|error| error.message.chars().take(1000).collect::<String>());
    let mut windows: Vec<_> = status
        .windows
        .iter()
        .rev()
        .map(|window| {
            json!({
                "point": window.trial.point, "cycle": window.trial.cycle, "attempt": window.trial.attempt,
                "seconds": window.duration_seconds,
                "tokens": window.input_tokens + window.output_tokens,
                "joules": window.energy.iter().filter_map(|reading| reading.joules).sum::<f64>(),
            })
        })
        .collect();
    loop {
        let text = json!({
            "phase": status.phase,
            "category": status.error.as_ref().map(|error| &error.category),
            "message": message,
            "windowsFinished": status.windows.len(),
            "windows": windows,
        })
        .to_string();
        if text.len() <= LIMIT || windows.pop().is_none() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use lem_crds::runner::RunnerError;

    use super::*;

    #[test]
    fn a_long_error_still_fits_the_termination_message() {
        let status = RunnerStatus {
            error: Some(RunnerError {
                category: "engine".to_owned(),
                message: "\u{1F525}".repeat(5000),
            }),
            ..RunnerStatus::default()
        };
        let text = digest(&status);
        assert!(text.len() <= LIMIT, "{} bytes", text.len());
        assert!(text.contains("\"category\":\"engine\""), "{text}");
    }
}
