//! How far each experiment is, and what it has cost: from its status and the records of its processes. Pure.

use std::{collections::BTreeMap, fmt};

use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, Runner,
    runner::{HeldSeconds, WindowRecord},
    status::Progress,
};
use prometheus_client::{encoding::DescriptorEncoder, registry::Unit};

use super::family::{Description, Labels, gauges};

/// Annotation of an experiment: the one in its namespace that its figures are held against.
pub const BASELINE_ANNOTATION: &str = "lem.dev/baseline-experiment";

type Count = fn(&Progress) -> u32;
const PROGRESS: [(&str, &str, Count); 3] = [
    ("experiment_trials_planned", "Trials planned", |progress| {
        progress.planned
    }),
    ("experiment_trials_finished", "Trials with a result", |progress| {
        progress.finished
    }),
    (
        "experiment_trials_retried",
        "Trials repeated, because they failed or were invalid",
        |progress| progress.retried,
    ),
];

type Activity = (&'static str, fn(&HeldSeconds) -> f64);
const ACTIVITIES: [Activity; 6] = [
    ("load", |held| held.load),
    ("baseline", |held| held.baseline),
    ("warmup", |held| held.warmup),
    ("wait", |held| held.wait),
    ("cooldown", |held| held.cooldown),
    ("measured", |held| held.measured),
];

/// Writes progress, conditions and costs of every experiment.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    experiments: &[&EfficiencyExperiment],
    runners: &[&Runner],
) -> fmt::Result {
    encode_progress(encoder, experiments)?;
    encode_state(encoder, experiments)?;
    encode_cost(encoder, experiments, runners)
}

fn encode_progress(encoder: &mut DescriptorEncoder<'_>, experiments: &[&EfficiencyExperiment]) -> fmt::Result {
    for (name, help, of) in PROGRESS {
        let series = experiments.iter().map(|experiment| {
            let count = experiment.status.as_ref().map_or(0, |status| of(&status.progress));
            (labels(experiment), f64::from(count))
        });
        gauges(encoder, &Description::new(name, help), series)?;
    }
    let failures = experiments.iter().map(|experiment| {
        let count = experiment.status.as_ref().map_or(0, |status| status.failures.len());
        (labels(experiment), count as f64)
    });
    let description = Description::new(
        "experiment_trial_failures",
        "Trials that did not come to all their windows",
    );
    gauges(encoder, &description, failures)?;
    let verdicts = experiments.iter().flat_map(|experiment| {
        let status = experiment.status.as_ref();
        let counts = status.map(|status| status.progress.verdicts).unwrap_or_default();
        counts.each().map(|(verdict, count)| {
            let verdict = <&str>::from(verdict).to_owned();
            (with(labels(experiment), "verdict", verdict), f64::from(count))
        })
    });
    let description = Description::new("experiment_trials", "Trials by verdict, those that were repeated too");
    gauges(encoder, &description, verdicts)
}

fn encode_state(encoder: &mut DescriptorEncoder<'_>, experiments: &[&EfficiencyExperiment]) -> fmt::Result {
    let phases = experiments.iter().map(|experiment| {
        let status = experiment.status.as_ref();
        let phase = status.map(|status| status.phase).unwrap_or_default();
        let phase = <&str>::from(phase).to_owned();
        (with(labels(experiment), "phase", phase), 1.0)
    });
    gauges(
        encoder,
        &Description::new("experiment_phase", "1 for the present phase"),
        phases,
    )?;
    let conditions = experiments.iter().flat_map(|experiment| {
        let conditions = experiment.status.iter().flat_map(|status| &status.conditions);
        conditions.map(|condition| {
            let labels = with(labels(experiment), "condition", condition.type_.clone());
            let holds = if condition.status == "True" { 1.0 } else { 0.0 };
            (with(labels, "reason", condition.reason.clone()), holds)
        })
    });
    let description = Description::new(
        "experiment_condition",
        "1 for a condition that is True, 0 for one that is not",
    );
    gauges(encoder, &description, conditions)?;
    let baselines = experiments.iter().filter_map(|experiment| {
        let baseline = experiment.annotations().get(BASELINE_ANNOTATION)?.clone();
        Some((with(labels(experiment), "baseline", baseline), 1.0))
    });
    let description = Description::new(
        "experiment_baseline_info",
        "1 for the experiment that an experiment is held against",
    );
    gauges(encoder, &description, baselines)?;
    let created = experiments.iter().filter_map(|experiment| {
        let created = experiment.creation_timestamp()?.0;
        Some((labels(experiment), created.as_second() as f64))
    });
    let description = Description::new("experiment_created_timestamp", "When it was created, as a Unix time");
    gauges(encoder, &description.in_unit(Unit::Seconds), created)
}

/// Of the processes of one experiment, on one kind of device.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    /// Times the number of devices.
    held: HeldSeconds,
    /// The largest, in seconds.
    clock_difference: f64,
}

fn encode_cost(
    encoder: &mut DescriptorEncoder<'_>,
    experiments: &[&EfficiencyExperiment],
    runners: &[&Runner],
) -> fmt::Result {
    let costs = costs(experiments, runners);
    let devices = |of: fn(&HeldSeconds) -> f64| {
        costs
            .iter()
            .map(move |((labels, device), cost)| (with(labels.clone(), "device", (*device).to_owned()), of(&cost.held)))
    };
    let description = Description::new("experiment_held", "Device-seconds for which its processes were there");
    gauges(encoder, &description.in_unit(Unit::Seconds), devices(|held| held.total))?;
    let description = Description::new("experiment_measured", "Device-seconds in measured windows");
    let measured = devices(|held| held.measured);
    gauges(encoder, &description.in_unit(Unit::Seconds), measured)?;
    let activities = costs.iter().flat_map(|((labels, device), cost)| {
        ACTIVITIES.iter().map(move |(activity, of)| {
            let labels = with(labels.clone(), "device", (*device).to_owned());
            (with(labels, "activity", (*activity).to_owned()), of(&cost.held))
        })
    });
    let description = Description::new("experiment_activity", "Device-seconds by what its processes did");
    gauges(encoder, &description.in_unit(Unit::Seconds), activities)?;
    let differences = costs
        .iter()
        .map(|((labels, _), cost)| (labels.clone(), cost.clock_difference));
    let description = Description::new(
        "experiment_clock_difference",
        "Largest difference between the clock of one of its processes and the API server's",
    );
    gauges(encoder, &description.in_unit(Unit::Seconds), differences)
}

/// Costs by experiment. A process on GPUs counts once per GPU, any other once.
fn costs(experiments: &[&EfficiencyExperiment], runners: &[&Runner]) -> BTreeMap<(Labels, &'static str), Cost> {
    let mut by_name: BTreeMap<(String, &str), Vec<&Runner>> = BTreeMap::new();
    for runner in runners {
        let key = (runner.namespace().unwrap_or_default(), runner.spec.experiment.as_str());
        by_name.entry(key).or_default().push(runner);
    }
    let mut costs = BTreeMap::new();
    for experiment in experiments {
        let name = experiment.name_any();
        let key = (experiment.namespace().unwrap_or_default(), name.as_str());
        for runner in by_name.get(&key).into_iter().flatten() {
            let gpus = runner.spec.load.gpus_per_process;
            let device = if gpus > 0 { "gpu" } else { "cpu" };
            let cost: &mut Cost = costs.entry((labels(experiment), device)).or_default();
            let Some(status) = &runner.status else { continue };
            let held = status.earlier.iter().map(|earlier| &earlier.held).chain([&status.held]);
            for held in held {
                cost.held.add(held, f64::from(gpus.max(1)));
            }
            let offsets = status.all_windows().filter_map(offset);
            cost.clock_difference = offsets.fold(cost.clock_difference, f64::max);
        }
    }
    costs
}

fn offset(window: &WindowRecord) -> Option<f64> {
    window.clock.api_server_offset_seconds.map(f64::abs)
}

/// The labels of an experiment.
pub(super) fn labels(experiment: &EfficiencyExperiment) -> Labels {
    vec![
        ("namespace", experiment.namespace().unwrap_or_default()),
        ("experiment", experiment.name_any()),
    ]
}

pub(super) fn with(mut labels: Labels, name: &'static str, value: String) -> Labels {
    labels.push((name, value));
    labels
}
