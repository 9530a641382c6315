//! The work that a plan means, before anything runs. Pure.

use lem_crds::{
    experiment::{EfficiencyExperimentSpec, Warmup},
    plan::Point,
};

/// Windows and time of a plan: that of an experiment, or of one node of a fleet.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// Points of the sweep.
    pub points: usize,
    /// Loads of the model in each process.
    pub loads: usize,
    /// Trials.
    pub trials: usize,
    /// Windows: trials × processes.
    pub windows: usize,
    /// Tokens through the model in all measured windows of one process.
    pub tokens_per_process: u64,
    /// Tokens generated one after another by one process, warm-up included.
    pub decoded_tokens_per_process: u64,
    /// Fixed seconds: baselines and cool-downs.
    pub fixed_seconds: f64,
    /// Requests executed by one process at least: windows and the shortest warm-ups.
    pub requests_per_process: u64,
}

/// Counts what a plan asks for.
pub fn work(spec: &EfficiencyExperimentSpec, points: &[Point], loads: usize) -> Work {
    let cycles = u64::from(spec.protocol.cycles);
    let trials = points.len() * spec.protocol.cycles as usize;
    let mut tokens = 0;
    let mut requests = 0;
    let mut decoded = 0;
    let mut fixed = 3.0 * spec.protocol.baseline.duration.seconds() * loads as f64;
    for point in points {
        let workload = &point.window.workload;
        let count = u64::from(workload.requests);
        tokens += cycles * count * (u64::from(workload.max_input_tokens) + u64::from(workload.max_output_tokens));
        let (first, later) = match &point.window.warmup {
            Warmup::Fixed(fixed) => (u64::from(fixed.iterations), u64::from(fixed.iterations)),
            Warmup::Converged(convergence) => (u64::from(convergence.minimum_iterations), 3),
        };
        let executed = cycles * count + first + later * cycles.saturating_sub(1);
        requests += executed;
        decoded += executed * u64::from(workload.max_output_tokens);
        fixed += point.window.cooldown.duration.seconds() * cycles as f64;
    }
    Work {
        points: points.len(),
        loads,
        trials,
        windows: trials * spec.processes.count as usize,
        tokens_per_process: tokens,
        decoded_tokens_per_process: decoded,
        fixed_seconds: fixed,
        requests_per_process: requests,
    }
}
