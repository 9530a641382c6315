//! One point over its cycles: mean, spread and interval of every metric, and what was left out (METHODOLOGY §2). Pure:
//! no clock; the caller says when the last trial ended.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use lem_crds::{
    experiment::StopRule,
    metrics::{DEFINITIONS, Estimate, MetricDefinition, MetricSet, Unavailable, definition},
    plan::Point,
    runner::Environment,
    status::{Doubt, PointResult, TrialResult, Verdict, VerdictReason},
};

use super::{
    comparable::{Metered, Prevailing, same_energy},
    statistics::{estimate, mean},
    verdict::reason,
};

/// Bytes in a GiB.
const GIBIBYTE: f64 = 1_073_741_824.0;

/// Summarises the trials of one point.
///
/// Of several attempts of a cycle the last one that is not `Invalid` counts. `Invalid` trials never enter a mean; each
/// is stated among the reasons, with severity `Valid` where a later attempt took its place. Where the domains or sources
/// of the energy differ between cycles, only those of the widest scope, and of the most frequent sources within it, are
/// averaged, and `MixedEnergyScope` says so.
pub fn summarise_point(
    point: &Point,
    planned_cycles: u32,
    trials: &[TrialResult],
    environments: &[&Environment],
    measured_at: Option<Timestamp>,
) -> PointResult {
    let usable = usable_trials(trials);
    let averaged = averaged_trials(trials);
    let (scope, sources) = averaged.first().map(Metered::energy).unwrap_or_default();
    let left_out = usable.len() - averaged.len();
    let mut reasons: Vec<VerdictReason> = usable.iter().flat_map(|trial| trial.reasons.iter().cloned()).collect();
    reasons.extend(excluded(trials, &usable));
    if left_out > 0 {
        let message = format!(
            "{left_out} of {} cycles have energy of other domains or sources than {} ({}) and are left out of the means",
            usable.len(),
            scope.join("+"),
            sources.join("+")
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
        energy_scope: scope.to_vec(),
        energy_sources: sources.to_vec(),
        flops_method: least_confident.and_then(|trial| trial.flops_method),
        flops_confidence: least_confident.and_then(|trial| trial.flops_confidence),
        metrics,
        not_available,
        measured_at,
    }
}

/// The last attempt of each cycle that is not `Invalid`, in order of cycle.
pub fn usable_trials<'a>(trials: impl IntoIterator<Item = &'a TrialResult>) -> Vec<&'a TrialResult> {
    let mut by_cycle: BTreeMap<u32, &TrialResult> = BTreeMap::new();
    for trial in trials.into_iter().filter(|trial| trial.verdict != Verdict::Invalid) {
        let chosen = by_cycle.entry(trial.cycle).or_insert(trial);
        if trial.attempt > chosen.attempt {
            *chosen = trial;
        }
    }
    by_cycle.into_values().collect()
}

/// The usable trials whose energy is comparable, which means and comparisons are made of: of the widest scope, by the
/// sources that most of them have; of equally frequent ones those that are measured.
pub fn averaged_trials<'a>(trials: impl IntoIterator<Item = &'a TrialResult>) -> Vec<&'a TrialResult> {
    same_energy(usable_trials(trials), Prevailing::Widest)
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
        let found = summary_of(definition, &values);
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

/// Mean of a metric over cycles, with its spread where the cycles tell it.
fn summary_of(definition: &MetricDefinition, values: &[f64]) -> Option<Estimate> {
    let found = estimate(values)?;
    if definition.has_spread() {
        return Some(found);
    }
    Some(Estimate {
        standard_deviation: None,
        lower: None,
        upper: None,
        coefficient_of_variation: None,
        ..found
    })
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

/// The values of one metric over the cycles that the point's means are made of, for [`super::compare()`]; only the mean of
/// a metric of which the cycles do not tell the spread.
pub fn cycle_values<'a>(trials: impl IntoIterator<Item = &'a TrialResult>, metric: &str) -> Vec<f64> {
    let values: Vec<f64> = averaged_trials(trials)
        .into_iter()
        .filter_map(|trial| trial.metrics.get(metric).copied())
        .collect();
    if !values.is_empty() && definition(metric).is_some_and(|metric| !metric.has_spread()) {
        return vec![mean(&values)];
    }
    values
}

/// Mean of one metric over the same cycles, where there is one.
pub fn cycle_mean<'a>(trials: impl IntoIterator<Item = &'a TrialResult>, metric: &str) -> Option<f64> {
    let values = cycle_values(trials, metric);
    (!values.is_empty()).then(|| mean(&values))
}
