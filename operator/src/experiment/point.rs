//! One point over its cycles: mean, spread and interval of every metric, and what was left out (METHODOLOGY §2). Pure:
//! no clock; the caller says when the last trial ended.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use lem_crds::{
    experiment::StopRule,
    metrics::{DEFINITIONS, Estimate, MetricSet, Unavailable},
    plan::Point,
    runner::Environment,
    status::{Doubt, PointResult, TrialResult, Verdict, VerdictReason},
};

use super::{
    statistics::{estimate, mean},
    verdict::reason,
};

/// Bytes in a GiB.
const GIBIBYTE: f64 = 1_073_741_824.0;

/// Summarises the trials of one point.
///
/// Of several attempts of a cycle the last one that is not `Invalid` counts. `Invalid` trials never enter a mean; each
/// is stated among the reasons, with severity `Valid` where a later attempt took its place. Where the energy scope
/// differs between cycles, only those of the widest scope are averaged, and `MixedEnergyScope` says so.
pub fn summarise_point(
    point: &Point,
    planned_cycles: u32,
    trials: &[TrialResult],
    environments: &[&Environment],
    measured_at: Option<Timestamp>,
) -> PointResult {
    let usable = usable_trials(trials);
    let scope = widest_scope(&usable);
    let (averaged, other): (Vec<&TrialResult>, Vec<&TrialResult>) =
        usable.iter().partition(|trial| trial.energy_scope == scope);
    let mut reasons: Vec<VerdictReason> = usable.iter().flat_map(|trial| trial.reasons.iter().cloned()).collect();
    reasons.extend(excluded(trials, &usable));
    if !other.is_empty() {
        let message = format!(
            "{} of {} cycles lack a domain of the scope {} and are left out of the means",
            other.len(),
            usable.len(),
            scope.join("+")
        );
        reasons.push(reason(Doubt::MixedEnergyScope, message));
    }
    if (usable.len() as u32) < planned_cycles {
        let message = format!(
            "{} of {planned_cycles} planned cycles have a usable result",
            usable.len()
        );
        reasons.push(reason(Doubt::MissingCycles, message));
    }
    let reasons = each_once(reasons);
    let (metrics, not_available) = metrics(&averaged, trials);
    let verdict = if usable.is_empty() {
        Verdict::Invalid
    } else {
        reasons.iter().map(|found| found.severity).max().unwrap_or_default()
    };
    let sources: BTreeSet<&String> = averaged.iter().flat_map(|trial| &trial.energy_sources).collect();
    let least_confident = averaged.iter().filter(|trial| trial.flops_confidence.is_some());
    let least_confident = least_confident.min_by_key(|trial| trial.flops_confidence);
    PointResult {
        index: point.index,
        values: point.values.clone(),
        plan_sha256: point.plan_sha256.clone(),
        node_class: node_class(environments),
        cycles: averaged.len() as u32,
        verdict,
        reasons,
        energy_scope: scope,
        energy_sources: sources.into_iter().cloned().collect(),
        flops_method: least_confident.and_then(|trial| trial.flops_method),
        flops_confidence: least_confident.and_then(|trial| trial.flops_confidence),
        metrics,
        not_available,
        measured_at,
    }
}

/// The last attempt of each cycle that is not `Invalid`, in order of cycle: what means and comparisons are made of.
pub fn usable_trials(trials: &[TrialResult]) -> Vec<&TrialResult> {
    let mut by_cycle: BTreeMap<u32, &TrialResult> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.verdict != Verdict::Invalid) {
        let chosen = by_cycle.entry(trial.cycle).or_insert(trial);
        if trial.attempt > chosen.attempt {
            *chosen = trial;
        }
    }
    by_cycle.into_values().collect()
}

fn widest_scope(usable: &[&TrialResult]) -> Vec<String> {
    let scopes = usable.iter().map(|trial| &trial.energy_scope);
    scopes
        .max_by(|a, b| a.len().cmp(&b.len()).then(b.cmp(a)))
        .cloned()
        .unwrap_or_default()
}

/// The reasons of trials that no mean contains.
fn excluded(trials: &[TrialResult], usable: &[&TrialResult]) -> Vec<VerdictReason> {
    let mut found = Vec::new();
    for trial in trials.iter().filter(|trial| trial.verdict == Verdict::Invalid) {
        let replaced = usable.iter().any(|other| other.cycle == trial.cycle);
        let severity = match (replaced, usable.is_empty()) {
            (true, _) => Verdict::Valid,
            (false, false) => Verdict::Suspect,
            (false, true) => Verdict::Invalid,
        };
        let fate = if replaced { "repeated" } else { "left out" };
        found.extend(
            trial
                .reasons
                .iter()
                .filter(|why| why.severity == Verdict::Invalid)
                .map(|why| VerdictReason {
                    doubt: why.doubt,
                    severity,
                    message: format!(
                        "cycle {} attempt {} was {fate}: {}",
                        trial.cycle, trial.attempt, why.message
                    ),
                }),
        );
    }
    found
}

/// One reason per doubt and severity, worst first: the first message, and how many more there were.
fn each_once(reasons: Vec<VerdictReason>) -> Vec<VerdictReason> {
    let mut grouped: BTreeMap<(std::cmp::Reverse<Verdict>, Doubt), (String, u32)> = BTreeMap::new();
    for VerdictReason {
        doubt,
        severity,
        message,
    } in reasons
    {
        let entry = grouped
            .entry((std::cmp::Reverse(severity), doubt))
            .or_insert((message, 0));
        entry.1 += 1;
    }
    let one = |((severity, doubt), (message, count)): ((std::cmp::Reverse<Verdict>, Doubt), (String, u32))| {
        let more = if count > 1 {
            format!(" (and {} more)", count - 1)
        } else {
            String::new()
        };
        VerdictReason {
            doubt,
            severity: severity.0,
            message: message + &more,
        }
    };
    grouped.into_iter().map(one).collect()
}

fn metrics(averaged: &[&TrialResult], trials: &[TrialResult]) -> (MetricSet<Estimate>, BTreeMap<String, Unavailable>) {
    let mut not_available = BTreeMap::new();
    let columns: Vec<Vec<Option<f64>>> = averaged
        .iter()
        .map(|trial| trial.metrics.iter().map(|(_, value)| value.copied()).collect())
        .collect();
    let mut position = 0;
    let metrics = MetricSet::from_fn(|definition| {
        let values: Vec<f64> = columns.iter().filter_map(|column| column[position]).collect();
        position += 1;
        let found = estimate(&values);
        if found.is_none() {
            let mut explained = averaged.iter().copied().chain(trials);
            let why = explained.find_map(|trial| trial.not_available.get(definition.key));
            not_available.insert(
                definition.key.to_owned(),
                why.copied().unwrap_or(Unavailable::NotReported),
            );
        }
        found
    });
    debug_assert_eq!(position, DEFINITIONS.len());
    (metrics, not_available)
}

/// The class of the nodes: GPU product, memory, driver and MIG mode, or the CPU's model without a GPU
/// (METHODOLOGY §1). Different classes are joined by ` + `, so that they never compare as equal to one of them.
pub fn node_class(environments: &[&Environment]) -> String {
    let classes: BTreeSet<String> = environments
        .iter()
        .flat_map(|environment| classes_of(environment))
        .collect();
    if classes.is_empty() {
        return "unknown".to_owned();
    }
    classes.into_iter().collect::<Vec<_>>().join(" + ")
}

fn classes_of(environment: &Environment) -> Vec<String> {
    if environment.gpus.is_empty() {
        return vec![
            environment
                .cpu
                .model
                .clone()
                .unwrap_or_else(|| "unknown CPU".to_owned()),
        ];
    }
    let driver = environment.driver.as_deref().unwrap_or("unknown driver");
    let class = |gpu: &lem_crds::runner::GpuEnvironment| {
        let product = gpu.product.as_deref().unwrap_or("unknown GPU");
        let memory = gpu.memory_bytes.map_or("unknown memory".to_owned(), |bytes| {
            format!("{:.0} GiB", bytes as f64 / GIBIBYTE)
        });
        let mig = match gpu.mig {
            Some(true) => "MIG on",
            Some(false) => "MIG off",
            None => "MIG unknown",
        };
        format!("{product}|{memory}|{driver}|{mig}")
    };
    environment.gpus.iter().map(class).collect()
}

/// Whether the 95 % interval of the watched metric is narrow enough: half-width ≤ x % of the mean (METHODOLOGY §2).
/// One cycle, a mean of zero or a null metric is never enough.
pub fn stop_rule_satisfied(rule: &StopRule, result: &PointResult) -> bool {
    let Some(Estimate {
        mean,
        lower: Some(lower),
        upper: Some(upper),
        ..
    }) = result.metrics.get(&rule.metric)
    else {
        return false;
    };
    let half_width = (upper - lower) / 2.0;
    *mean != 0.0 && half_width / mean.abs() * 100.0 <= rule.relative_half_width_percent.get()
}

/// Whether a point needs one cycle more: the planned ones, then as long as the stop rule asks and allows.
pub fn needs_another_cycle(planned_cycles: u32, rule: Option<&StopRule>, done: u32, result: &PointResult) -> bool {
    if done < planned_cycles {
        return true;
    }
    rule.is_some_and(|rule| done < rule.maximum_cycles && !stop_rule_satisfied(rule, result))
}

/// The values of one metric over the usable cycles, for [`super::compare()`].
pub fn cycle_values(trials: &[TrialResult], metric: &str) -> Vec<f64> {
    usable_trials(trials)
        .into_iter()
        .filter_map(|trial| trial.metrics.get(metric).copied())
        .collect()
}

/// Mean of one metric over the usable cycles, where there is one.
pub fn cycle_mean(trials: &[TrialResult], metric: &str) -> Option<f64> {
    let values = cycle_values(trials, metric);
    (!values.is_empty()).then(|| mean(&values))
}
