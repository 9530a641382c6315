//! What one node came to by itself, at every point. Pure.

use std::collections::BTreeMap;

use lem_crds::{
    EfficiencyExperimentSpec,
    plan::Point,
    runner::DeviceObservation,
    status::{NodeFigure, PointResult, Progress, Sign, Verdict},
};

use super::{
    super::{
        point::cycle_values,
        record::{Failure, Record},
        statistics::mean,
        summary::{self, MeasuredTrial, TrialNode},
    },
    devices,
};

/// What one node came to.
#[derive(Debug, Clone)]
pub struct NodeResult {
    /// Its name.
    pub node: String,
    /// How far it is.
    pub progress: Progress,
    /// Why results are missing, if some are.
    pub partial: Vec<String>,
    /// What it came to at each point that has a trial.
    pub points: Vec<NodePoint>,
}

/// Each trial of a node, as reports show it.
pub fn node_trials(
    spec: &EfficiencyExperimentSpec,
    points: &[Point],
    node: &str,
    records: &[Record],
    failures: &[Failure],
) -> Vec<MeasuredTrial> {
    let summary = summary::summarise(spec, points, records, failures);
    let class = |point: u32| {
        let mut results = summary.status.points.iter();
        let of_point = results.find(|result| result.index == point);
        of_point.map(|result| result.node_class.clone()).unwrap_or_default()
    };
    let with_node = |trial: &MeasuredTrial| MeasuredTrial {
        node: Some(TrialNode {
            name: node.to_owned(),
            class: class(trial.point),
        }),
        ..trial.clone()
    };
    summary.trials.iter().map(with_node).collect()
}

/// What one node came to at one point.
#[derive(Debug, Clone)]
pub struct NodePoint {
    /// Every metric over the node's cycles.
    pub result: PointResult,
    /// Joules per token of each usable cycle.
    pub joules_per_token: Vec<f64>,
    /// Watts of each usable cycle.
    pub watts: Vec<f64>,
    /// What its devices showed, by sign: means over cycles, the worst of its devices.
    pub signs: BTreeMap<Sign, f64>,
}

impl NodeResult {
    /// From everything that the node's processes have reported.
    pub fn new(
        spec: &EfficiencyExperimentSpec,
        points: &[Point],
        node: &str,
        records: &[Record],
        failures: &[Failure],
    ) -> Self {
        let summary = summary::summarise(spec, points, records, failures);
        let of_point = |result: PointResult| {
            let trials = || summary.trials.iter().filter(|trial| trial.point == result.index);
            let values = |metric: &str| cycle_values(trials().map(|trial| &trial.result), metric);
            NodePoint {
                joules_per_token: values("joules_per_token"),
                watts: values("total_power_w"),
                signs: signs(&result, records),
                result,
            }
        };
        Self {
            node: node.to_owned(),
            progress: summary.status.progress,
            partial: summary.status.partial,
            points: summary.status.points.into_iter().map(of_point).collect(),
        }
    }

    /// Every planned trial has a result that may be used.
    pub fn complete(&self) -> bool {
        let usable = |point: &NodePoint| point.result.verdict != Verdict::Invalid;
        self.progress.finished == self.progress.planned && self.points.iter().all(usable)
    }
}

impl NodePoint {
    /// The figures by which nodes are compared.
    pub fn figure(&self, node: &str) -> NodeFigure {
        let mean = |metric: &str| self.result.metrics.get(metric).map(|estimate| estimate.mean);
        NodeFigure {
            node: node.to_owned(),
            joules_per_token: mean("joules_per_token"),
            tokens_per_second: mean("effective_throughput"),
            watts: mean("total_power_w"),
            verdict: self.result.verdict,
        }
    }
}

fn signs(result: &PointResult, records: &[Record]) -> BTreeMap<Sign, f64> {
    let windows = records.iter().flat_map(|record| &record.status.windows);
    let of_point = windows.filter(|window| window.trial.plan_sha256 == result.plan_sha256);
    let mut values: BTreeMap<Sign, Vec<f64>> = BTreeMap::new();
    for window in of_point {
        for (sign, value) in of_devices(&devices(&window.trial, records)) {
            values.entry(sign).or_default().push(value);
        }
    }
    let mut signs: BTreeMap<Sign, f64> = values.iter().map(|(sign, values)| (*sign, mean(values))).collect();
    let mean_of = |metric: &str| result.metrics.get(metric).map(|estimate| estimate.mean);
    signs.extend(mean_of("total_power_w").map(|watts| (Sign::Watts, watts)));
    signs.extend(mean_of("effective_throughput").map(|rate| (Sign::TokensPerSecond, rate)));
    signs.extend(error_correction(records).map(|share| (Sign::ErrorCorrection, share)));
    signs
}

/// Share of the devices with error correction, which costs bandwidth on boards that keep its bits in their memory.
fn error_correction(records: &[Record]) -> Option<f64> {
    let environments = records.iter().filter_map(|record| record.status.environment.as_ref());
    let gpus = environments.flat_map(|environment| &environment.gpus);
    let states: Vec<f64> = gpus
        .filter_map(|gpu| gpu.ecc)
        .map(|on| f64::from(u8::from(on)))
        .collect();
    (!states.is_empty()).then(|| mean(&states))
}

/// Of several devices the worst: the hottest, the slowest, the one with the lowest limit; times and processes add up.
fn of_devices(devices: &[DeviceObservation]) -> Vec<(Sign, f64)> {
    let highest = |value: fn(&DeviceObservation) -> Option<f64>| devices.iter().filter_map(value).reduce(f64::max);
    let lowest = |value: fn(&DeviceObservation) -> Option<f64>| devices.iter().filter_map(value).reduce(f64::min);
    let sum = |value: fn(&DeviceObservation) -> Option<f64>| {
        let known: Vec<f64> = devices.iter().filter_map(value).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    let clock = lowest(|device| {
        let samples = device.sm_clock_megahertz.as_ref()?;
        (samples.count > 0).then(|| samples.sum / samples.count as f64)
    });
    let over_default = lowest(|device| Some(device.power_limit_watts? / device.power_limit_default_watts?));
    let throttled = sum(|device| {
        let by = [device.power_violation_seconds, device.thermal_violation_seconds];
        by.into_iter().flatten().reduce(|power, thermal| power + thermal)
    });
    [
        (
            Sign::TemperatureCelsius,
            highest(|device| device.temperature_maximum_celsius),
        ),
        (Sign::SmClockMegahertz, clock),
        (Sign::PowerLimitWatts, lowest(|device| device.power_limit_watts)),
        (Sign::PowerLimitOverDefault, over_default),
        (Sign::ThrottledSeconds, throttled),
        (
            Sign::ForeignProcesses,
            sum(|device| device.foreign_processes.map(f64::from)),
        ),
    ]
    .into_iter()
    .filter_map(|(sign, value)| Some((sign, value?)))
    .collect()
}
