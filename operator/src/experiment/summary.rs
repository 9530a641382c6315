//! From records and failures to results. The same function serves the end of a run and `lem report`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lem_crds::{
    EfficiencyExperimentStatus,
    experiment::EfficiencyExperimentSpec,
    plan::{Point, TrialIdentity},
    runner::{Environment, HeldSeconds, RunnerError, WindowRecord},
    status::{ExperimentPhase, Headline, ObjectiveStatus, PointResult, Progress, TrialResult, VerdictCounts},
};

use super::{
    ProcessInput, TrialInput,
    choice::{cheapest, objective, pareto_front},
    cost::Account,
    cycle_values,
    devices::ON_CPU,
    evaluate_trial,
    record::{Failure, Record, find_window, same_trial},
    summarise_point,
};

/// All that is known of an experiment.
#[derive(Debug)]
pub struct Summary {
    /// What a user reads.
    pub status: EfficiencyExperimentStatus,
    /// Each trial that has a result; repeated ones too.
    pub trials: Vec<MeasuredTrial>,
}

/// A trial that has a result.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredTrial {
    /// Index of its point.
    pub point: u32,
    /// The node that it measured, where each node is measured by itself.
    pub node: Option<TrialNode>,
    /// What it came to.
    pub result: TrialResult,
}

/// The one node of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialNode {
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
}

/// One attempt at one cycle of a point.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Number of the attempt, from 0.
    pub number: u32,
    /// Every process has reported its window.
    pub complete: bool,
    /// What it came to.
    pub result: TrialResult,
}

/// Numbers of the attempts at a point's cycle that left a trace; none of them is evaluated.
pub fn attempt_numbers(point: &Point, cycle: u32, records: &[Record], failures: &[Failure]) -> BTreeSet<u32> {
    let windows = records
        .iter()
        .flat_map(|record| &record.status.windows)
        .map(|window| &window.trial);
    windows
        .chain(failures.iter().map(|failure| &failure.trial))
        .filter(|trial| trial.plan_sha256 == point.plan_sha256 && trial.cycle == cycle)
        .map(|trial| trial.attempt)
        .collect()
}

/// One attempt at a point's cycle, evaluated.
pub fn attempt(
    spec: &EfficiencyExperimentSpec,
    point: &Point,
    (cycle, number): (u32, u32),
    records: &[Record],
    failures: &[Failure],
) -> Attempt {
    let trial = TrialIdentity {
        plan_sha256: point.plan_sha256.clone(),
        point: point.index,
        cycle,
        attempt: number,
    };
    Attempt {
        number,
        complete: (0..spec.processes.count).all(|process| find_window(records, &trial, process).is_some()),
        result: evaluate(spec, point, &trial, records, failures),
    }
}

/// The result of one trial from whatever its processes reported.
pub fn evaluate(
    spec: &EfficiencyExperimentSpec,
    point: &Point,
    trial: &TrialIdentity,
    records: &[Record],
    failures: &[Failure],
) -> TrialResult {
    let failed: BTreeMap<u32, &RunnerError> = failures
        .iter()
        .filter(|failure| same_trial(&failure.trial, trial))
        .flat_map(|failure| failure.processes.iter().map(|(process, error)| (*process, error)))
        .collect();
    let nothing_held = HeldSeconds::default();
    let processes = (0..spec.processes.count)
        .map(|process| {
            let found = find_window(records, trial, process);
            ProcessInput {
                index: process,
                schema_version: found.map_or(lem_crds::SCHEMA_VERSION, |(record, _)| record.status.schema_version),
                environment: found.and_then(|(record, _)| record.status.environment.as_ref()),
                baselines: found.map_or(&[][..], |(record, _)| &record.status.baselines),
                held: found.map_or(&nothing_held, |(record, _)| &record.status.held),
                window: found.map(|(_, window)| window),
                failure: failed.get(&process).copied(),
            }
        })
        .collect();
    evaluate_trial(&TrialInput {
        point,
        spec,
        trial,
        processes,
    })
}

/// Results of every point, the best of them, and what is missing.
pub fn summarise(
    spec: &EfficiencyExperimentSpec,
    points: &[Point],
    records: &[Record],
    failures: &[Failure],
) -> Summary {
    let mut trials = Vec::new();
    let mut results = Vec::new();
    let mut partial = Vec::new();
    let mut finished = 0;
    let mut planned = 0;
    let environments: Vec<&Environment> = records
        .iter()
        .filter_map(|record| record.status.environment.as_ref())
        .collect();
    for point in points {
        let cycles = planned_cycles(spec, point, records);
        planned += cycles;
        let mut of_point = Vec::new();
        for cycle in 0..cycles {
            let numbers = attempt_numbers(point, cycle, records, failures).into_iter();
            let attempts: Vec<Attempt> = numbers
                .map(|number| attempt(spec, point, (cycle, number), records, failures))
                .collect();
            match attempts.last() {
                Some(last) if last.complete => finished += 1,
                Some(last) => partial.push(format!(
                    "{} cycle {}: {} of {} processes reported after {} attempts{}",
                    point.label(),
                    cycle + 1,
                    last.result.processes,
                    spec.processes.count,
                    last.number + 1,
                    reasons(failures, point, cycle)
                )),
                None => partial.push(format!("{} cycle {}: not measured", point.label(), cycle + 1)),
            }
            of_point.extend(attempts.into_iter().map(|attempt| attempt.result));
        }
        let measured_at = windows_of(records, point).map(|window| window.ended_at).max();
        if !of_point.is_empty() {
            results.push(summarise_point(point, cycles, &of_point, &environments, measured_at));
        }
        trials.extend(of_point.into_iter().map(|result| MeasuredTrial {
            point: point.index,
            node: None,
            result,
        }));
    }
    let phase = match (finished == planned, finished) {
        (true, _) => ExperimentPhase::Complete,
        (false, 0) => ExperimentPhase::Failed,
        (false, _) => ExperimentPhase::Partial,
    };
    if finished < planned
        && let Some(words) = Account::of(records).over_budget(spec, spec.processes.count)
    {
        partial.insert(0, words);
    }
    let values = |point: &PointResult, metric: &str| {
        let of_point = trials.iter().filter(|trial| trial.point == point.index);
        cycle_values(of_point.map(|trial| &trial.result), metric)
    };
    let chosen = spec
        .objective
        .as_ref()
        .map(|wanted| objective(wanted, &results, &values));
    let status = EfficiencyExperimentStatus {
        phase,
        progress: Progress {
            planned,
            finished,
            retried: failures.len() as u32,
            verdicts: VerdictCounts::of(trials.iter().map(|trial| trial.result.verdict)),
            summary: format!("{finished}/{planned}"),
        },
        headline: headline(&results, chosen.as_ref()),
        spent: (finished > 0).then(|| Account::of(records).spent(spec)),
        pareto_front: pareto_front(&results),
        objective: chosen,
        warnings: warnings(records, failures),
        points: results,
        partial,
        ..EfficiencyExperimentStatus::default()
    };
    Summary { status, trials }
}

fn windows_of<'a>(records: &'a [Record], point: &'a Point) -> impl Iterator<Item = &'a WindowRecord> {
    records
        .iter()
        .flat_map(|record| &record.status.windows)
        .filter(|window| window.trial.plan_sha256 == point.plan_sha256)
}

/// The cycles of the spec, or more where a stop rule has extended them.
fn planned_cycles(spec: &EfficiencyExperimentSpec, point: &Point, records: &[Record]) -> u32 {
    let most = match &spec.protocol.stop_rule {
        Some(rule) => rule.maximum_cycles.max(spec.protocol.cycles),
        None => spec.protocol.cycles,
    };
    let measured = windows_of(records, point)
        .map(|window| window.trial.cycle + 1)
        .max()
        .unwrap_or(0);
    measured.clamp(spec.protocol.cycles, most)
}

fn reasons(failures: &[Failure], point: &Point, cycle: u32) -> String {
    let last = failures
        .iter()
        .rfind(|failure| failure.trial.plan_sha256 == point.plan_sha256 && failure.trial.cycle == cycle);
    last.map(|failure| format!(" ({})", describe(&failure.processes)))
        .unwrap_or_default()
}

/// Failures of processes in one line.
pub fn describe(processes: &[(u32, RunnerError)]) -> String {
    processes
        .iter()
        .map(|(process, error)| format!("process {process}: {}", error.message))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Best points that a headline names; a table has one row for each experiment.
const MOST_NAMED: usize = 3;

/// The best point by the objective, where there is one, else by joules per token, as `kubectl get` shows it. Where
/// points are not comparable, for other nodes or other energy, the best of each kind, one after the other.
pub fn headline(points: &[PointResult], objective: Option<&ObjectiveStatus>) -> Option<Headline> {
    let answers = objective.into_iter().flat_map(|objective| &objective.classes);
    let wanted = answers.filter_map(|class| {
        let best = class.best.as_ref()?;
        let mut points = points.iter();
        points.find(|point| point.index == best.point && point.node_class == class.node_class)
    });
    let mut best: Vec<&PointResult> = wanted.collect();
    if best.is_empty() {
        best = cheapest(points);
    }
    if best.is_empty() {
        best.extend(points.first());
    }
    if best.is_empty() {
        return None;
    }
    let each = |text: &dyn Fn(&PointResult) -> String| {
        let mut named: Vec<String> = best.iter().take(MOST_NAMED).map(|point| text(point)).collect();
        if best.len() > MOST_NAMED {
            named.push("…".to_owned());
        }
        named.join(" / ")
    };
    let figure = |value: Option<&lem_crds::metrics::Estimate>| {
        value.map_or_else(
            || "—".to_owned(),
            |estimate| crate::report::number::plain(estimate.mean),
        )
    };
    Some(Headline {
        joules_per_token: each(&|point| {
            let joules = figure(point.metrics.joules_per_token.as_ref());
            match point.energy_sources.join("+").as_str() {
                "" => joules,
                source => format!("{joules} ({source})"),
            }
        }),
        tokens_per_second: each(&|point| figure(point.metrics.effective_throughput.as_ref())),
        verdict: each(&|point| format!("{:?}", point.verdict)),
    })
}

fn warnings(records: &[Record], failures: &[Failure]) -> Vec<String> {
    let mut warnings: Vec<String> = failures
        .iter()
        .map(|failure| {
            let TrialIdentity {
                point, cycle, attempt, ..
            } = &failure.trial;
            format!(
                "point {point} cycle {} attempt {}: {}",
                cycle + 1,
                attempt + 1,
                describe(&failure.processes)
            )
        })
        .collect();
    let idle_gpu = records
        .iter()
        .filter_map(|record| record.status.environment.as_ref())
        .any(|environment| environment.device == ON_CPU && !environment.gpus.is_empty());
    if idle_gpu {
        warnings.push(
            "GPU energy was metered, but the model ran on the CPU: the GPUs' share of each token is idle energy; \
             set processes.gpusPerProcess to 0 to leave them out"
                .to_owned(),
        );
    }
    warnings
}
