//! Warm-up (METHODOLOGY §2): requests of the window that follows, outside of it.

use std::time::Instant;

use lem_crds::{experiment::Warmup, runner::WarmupRecord};

use super::{ProtocolError, requests::Execution};
use crate::{engine::Engine, metrics::LiveRequests, workload::Requests};

/// Iteration times that the coefficient of variation is taken over.
const CONVERGENCE_WINDOW: usize = 3;

/// Runs the warm-up. A process that has just measured the same plan (`repeats`) needs only the convergence window.
pub(super) fn run(
    warmup: &Warmup,
    requests: &Requests,
    engine: &mut dyn Engine,
    repeats: bool,
) -> Result<WarmupRecord, ProtocolError> {
    let (minimum, maximum, limit) = match warmup {
        Warmup::Fixed(fixed) => (fixed.iterations as usize, fixed.iterations as usize, None),
        Warmup::Converged(convergence) => (
            convergence.minimum_iterations as usize,
            convergence.maximum_iterations as usize,
            Some(convergence.coefficient_of_variation.get()),
        ),
    };
    let shortened = repeats && limit.is_some() && minimum > CONVERGENCE_WINDOW;
    let minimum = if shortened { CONVERGENCE_WINDOW } else { minimum };
    let begin = Instant::now();
    let mut times = Vec::with_capacity(maximum);
    // As in the window, but shown to nobody.
    let unseen = LiveRequests::default();
    while times.len() < maximum {
        let iteration = Instant::now();
        let next = requests.warmup_requests(times.len(), engine.free_sequences());
        Execution::new(&next)
            .run(engine, &unseen)
            .map_err(ProtocolError::Engine)?;
        times.push(iteration.elapsed().as_secs_f64());
        let settled = limit.is_none_or(|limit| recent_variation(&times).is_some_and(|variation| variation < limit));
        if times.len() >= minimum && settled {
            break;
        }
    }
    let variation = recent_variation(&times);
    Ok(WarmupRecord {
        iterations: times.len() as u32,
        converged: limit.map(|limit| variation.is_some_and(|variation| variation < limit)),
        coefficient_of_variation: variation,
        seconds: begin.elapsed().as_secs_f64(),
        shortened,
    })
}

/// Sample standard deviation over mean of the last iteration times; none for fewer than the window holds.
fn recent_variation(times: &[f64]) -> Option<f64> {
    let recent = times
        .len()
        .checked_sub(CONVERGENCE_WINDOW)
        .map(|first| &times[first..])?;
    let count = recent.len() as f64;
    let mean = recent.iter().sum::<f64>() / count;
    let variance = recent.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean > 0.0).then(|| variance.sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_three_iterations_decide_convergence() {
        assert_eq!(recent_variation(&[1.0, 1.0]), None);
        assert_eq!(recent_variation(&[9.0, 1.0, 1.0, 1.0]), Some(0.0));
        // mean 1.1, deviations −0.1 0 0.1, s = 0.1
        let variation = recent_variation(&[5.0, 1.0, 1.1, 1.2]).unwrap();
        assert!((variation - 0.1 / 1.1).abs() < 1e-12);
    }
}
