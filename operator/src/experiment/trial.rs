//! One trial: the records of its processes in, every metric with its reasons and doubts out (METHODOLOGY §3–§9). Pure:
//! no client, no clock.

use std::collections::BTreeMap;

use lem_crds::{
    EfficiencyExperimentSpec,
    metrics::MetricSet,
    plan::{Point, TrialIdentity},
    runner::{Environment, FlopMethod, HeldSeconds, IdleBaseline, RunnerError, WindowRecord},
    status::{Doubt, TrialResult, Verdict},
};

use super::{
    aggregate,
    availability::publish,
    completeness::completeness,
    energy::trial_energy,
    latency::RequestLatencies,
    table::{TableInput, metric_table},
    verdict::{Evidence, doubts, reason, shared_devices},
};

/// Everything that one trial is evaluated from.
#[derive(Debug, Clone)]
pub struct TrialInput<'a> {
    /// The point that was measured.
    pub point: &'a Point,
    /// The experiment, for process count and prices.
    pub spec: &'a EfficiencyExperimentSpec,
    /// Which cycle and attempt of the point.
    pub trial: &'a TrialIdentity,
    /// What is known of each process, in any order.
    pub processes: Vec<ProcessInput<'a>>,
}

/// What is known of one process at the end of a trial.
#[derive(Debug, Clone)]
pub struct ProcessInput<'a> {
    /// Index of the process, from 0.
    pub index: u32,
    /// What was measured on, and with.
    pub environment: Option<&'a Environment>,
    /// Idle power.
    pub baselines: &'a [IdleBaseline],
    /// Where the process's time went.
    pub held: &'a HeldSeconds,
    /// The window of this trial; a window of another trial counts as none.
    pub window: Option<&'a WindowRecord>,
    /// Version of the record.
    pub schema_version: u32,
    /// What ended the process, if an error did.
    pub failure: Option<&'a RunnerError>,
}

/// Evaluates a trial: sums over distinct counters and replicas, pooled percentiles, ratios, doubts and the verdict.
///
/// A set of processes that is not complete, each once and of one schema, is `Invalid` and has no figures: its sums
/// would be those of another trial.
pub fn evaluate_trial(input: &TrialInput<'_>) -> TrialResult {
    let (reported, mut reasons) = completeness(&input.processes, input.spec.processes.count, input.trial);
    let complete = !reported.is_empty() && reasons.iter().all(|found| found.severity != Verdict::Invalid);
    let mut result = TrialResult {
        cycle: input.trial.cycle,
        attempt: input.trial.attempt,
        verdict: Verdict::Valid,
        reasons: Vec::new(),
        processes: reported.len() as u32,
        energy_scope: Vec::new(),
        energy_sources: Vec::new(),
        flops_method: None,
        flops_confidence: None,
        metrics: MetricSet::default(),
        not_available: BTreeMap::new(),
    };
    if complete {
        let shared = !shared_devices(&reported).is_empty();
        let energy = trial_energy(&reported, &input.point.load, shared);
        let (latencies, damaged) = RequestLatencies::new(&reported);
        let damaged = damaged
            .into_iter()
            .map(|error| reason(Doubt::FailedProcess, error.to_string()));
        reasons.extend(damaged);
        let table = metric_table(&TableInput {
            reported: &reported,
            energy: &energy,
            latencies: &latencies,
            pricing: input.spec.pricing.as_ref(),
        });
        (result.metrics, result.not_available) = publish(&table);
        reasons.extend(doubts(&Evidence {
            reported: &reported,
            energy: &energy,
            metrics: &result.metrics,
            barrier: input.point.window.barrier,
        }));
        result.energy_scope = energy.scope();
        result.energy_sources = energy
            .sources()
            .into_iter()
            .map(|source| source.name().to_owned())
            .collect();
        result.flops_method = aggregate::flops(&reported).ok().map(|(_, method)| method);
        result.flops_confidence = result.flops_method.map(FlopMethod::confidence);
    } else {
        (result.metrics, result.not_available) = publish(&MetricSet::default());
    }
    reasons.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.doubt.cmp(&b.doubt)));
    result.verdict = reasons.iter().map(|found| found.severity).max().unwrap_or_default();
    result.reasons = reasons;
    result
}
