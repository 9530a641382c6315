//! Processes, protocol, energy and pricing: how carefully the model is measured.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule;
use crate::{
    metrics,
    quantity::{Decimal, Duration},
};

/// Replicas that measure at the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Processes {
    /// Number of processes, each one replica of the model.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10000))]
    pub count: u32,
    /// GPUs given to each process and metered for it. Without GPUs on a machine, energy.gpu decides whether that is an error.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 16))]
    pub gpus_per_process: u32,
    /// When a fresh process, and so a fresh load of the model, is started. `Never`: one load for all trials that share it.
    /// `PerPoint`: one for each point. `PerTrial`: one for each trial, so that the variance between loads becomes visible.
    #[serde(default)]
    pub restart: Restart,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            count: 1,
            gpus_per_process: 1,
            restart: Restart::default(),
        }
    }
}

const fn one() -> u32 {
    1
}

/// When a fresh process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Restart {
    /// One load for all trials that share it.
    #[default]
    Never,
    /// A load for each point.
    PerPoint,
    /// A load for each trial: the variance between loads becomes visible.
    PerTrial,
}

/// How carefully to measure (METHODOLOGY §2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.stopRule) || self.cycles <= self.stopRule.maximumCycles")
    .message("cycles must not exceed stopRule.maximumCycles")
    .field_path(".cycles"))]
pub struct Protocol {
    /// What runs before each window, outside of it.
    #[serde(default)]
    pub warmup: Warmup,
    /// Idle power, measured before the first window and after the last; adjusted energy is energy above it.
    #[serde(default)]
    pub baseline: Baseline,
    /// Repetitions of each point, from which the 95 % intervals come; one repetition gives none.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub cycles: u32,
    /// Order of points and cycles.
    #[serde(default)]
    pub order: Order,
    /// Adds cycles to a point until the interval of a metric is narrow enough. None are added if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_rule: Option<StopRule>,
    /// The pause that separates trials.
    #[serde(default)]
    pub cooldown: Cooldown,
    /// How long each phase may take before the process counts as failed.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// How many failed or invalid trials are repeated over the whole experiment.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1000))]
    pub retry_budget: u32,
    /// Whether the processes of a trial start together. `Trial`: all are ready, then one start time for all. `None`: each
    /// starts when it is ready, for nodes that are measured independently.
    #[serde(default)]
    pub barrier: Barrier,
}

impl Default for Protocol {
    fn default() -> Self {
        Self {
            warmup: Warmup::default(),
            baseline: Baseline::default(),
            cycles: 3,
            order: Order::default(),
            stop_rule: None,
            cooldown: Cooldown::default(),
            deadlines: Deadlines::default(),
            retry_budget: 3,
            barrier: Barrier::default(),
        }
    }
}

const fn three() -> u32 {
    3
}

/// Exactly one kind of warm-up. It runs requests of the window that follows; its energy and tokens never enter the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Warmup {
    /// Until iteration times have settled.
    Converged(Convergence),
    /// A fixed number of iterations.
    Fixed(FixedWarmup),
}

impl Default for Warmup {
    fn default() -> Self {
        Self::Converged(Convergence::default())
    }
}

/// A fixed number of warm-up iterations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FixedWarmup {
    /// Requests executed before the window.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 1000))]
    pub iterations: u32,
}

/// Warm-up until the coefficient of variation of the last 3 iteration times is below the limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.minimumIterations <= self.maximumIterations")
        .message("minimumIterations must not exceed maximumIterations"),
    validation = Rule::new(rule::decimal("self.coefficientOfVariation", "double(self.coefficientOfVariation) > 0.0"))
        .message("coefficientOfVariation must be above 0")
)]
pub struct Convergence {
    /// At least this many iterations.
    #[serde(default = "five")]
    #[schemars(range(min = 3, max = 1000))]
    pub minimum_iterations: u32,
    /// At most this many; not having settled by then is recorded.
    #[serde(default = "twenty")]
    #[schemars(range(min = 3, max = 1000))]
    pub maximum_iterations: u32,
    /// Limit of the coefficient of variation of the last 3 iteration times.
    #[serde(default = "five_percent")]
    pub coefficient_of_variation: Decimal,
}

impl Default for Convergence {
    fn default() -> Self {
        Self {
            minimum_iterations: 5,
            maximum_iterations: 20,
            coefficient_of_variation: five_percent(),
        }
    }
}

const fn five() -> u32 {
    5
}
const fn twenty() -> u32 {
    20
}
fn five_percent() -> Decimal {
    "0.05".parse().unwrap_or_default()
}

/// Idle power, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// Length of each idle measurement; `0s` takes none, and adjusted energy is null.
    #[serde(default = "baseline_duration")]
    pub duration: Duration,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            duration: baseline_duration(),
        }
    }
}

const fn baseline_duration() -> Duration {
    Duration::from_secs(5)
}

/// Order of points and cycles.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// `Interleaved`: all points once, then again, so that drift over time spreads over all points. `Sequential`: all cycles
    /// of a point, then the next point. `Shuffled`: a seeded permutation of all trials. It holds among the points of one load; loads follow
    /// one another, so points that differ in model, device or dtype are not interleaved, unless processes.restart is `PerTrial`.
    #[serde(default)]
    pub policy: OrderPolicy,
    /// Seed of the shuffle.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub seed: u32,
}

/// Policy of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OrderPolicy {
    /// All points once, then again: drift over time spreads over all points.
    #[default]
    Interleaved,
    /// All cycles of a point, then the next point.
    Sequential,
    /// A seeded permutation of all trials.
    Shuffled,
}

/// Extends the cycles of a point until its interval is narrow enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::decimal("self.relativeHalfWidthPercent", "double(self.relativeHalfWidthPercent) > 0.0"))
    .message("relativeHalfWidthPercent must be above 0"))]
pub struct StopRule {
    /// The metric that is watched, by its name in status.
    #[serde(default = "joules_per_token")]
    #[schemars(extend("enum" = metrics::keys_with_spread().collect::<Vec<_>>()))]
    pub metric: String,
    /// Half-width of the 95 % interval over the mean, in percent, at which a point is done.
    pub relative_half_width_percent: Decimal,
    /// Most cycles of a point.
    #[serde(default = "ten")]
    #[schemars(range(min = 2, max = 100))]
    pub maximum_cycles: u32,
}

fn joules_per_token() -> String {
    "joulesPerToken".to_owned()
}
const fn ten() -> u32 {
    10
}

/// What separates trials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cooldown {
    /// Pause before each trial; the longest pause where a temperature is given.
    #[serde(default = "cooldown_duration")]
    pub duration: Duration,
    /// End the pause once every GPU of the process is at or below this, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 120))]
    pub temperature_celsius: Option<u32>,
}

impl Default for Cooldown {
    fn default() -> Self {
        Self {
            duration: cooldown_duration(),
            temperature_celsius: None,
        }
    }
}

const fn cooldown_duration() -> Duration {
    Duration::from_secs(1)
}

/// How long each phase may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// From the start of a process to the model resident and the baseline taken.
    #[serde(default = "load_deadline")]
    pub load: Duration,
    /// From an assignment to Ready: cool-down and warm-up.
    #[serde(default = "ready_deadline")]
    pub ready: Duration,
    /// The measured window and its report.
    #[serde(default = "window_deadline")]
    pub window: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            load: load_deadline(),
            ready: ready_deadline(),
            window: window_deadline(),
        }
    }
}

const fn load_deadline() -> Duration {
    Duration::from_secs(1800)
}
const fn ready_deadline() -> Duration {
    Duration::from_secs(900)
}
const fn window_deadline() -> Duration {
    Duration::from_secs(1800)
}

/// Whether the processes of a trial start together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Barrier {
    /// All are ready, then one start time for all.
    #[default]
    Trial,
    /// Each starts when it is ready: for nodes measured independently.
    None,
}

/// Which counters are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// Interval of the background samples between the window's edges.
    #[serde(default = "sample_interval")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,12}([.][0-9]{1,9})?(ms|s|m|h))+$') || self.matches('^([0-9]+)(ms|s)$') && (self.endsWith('ms') ? int(self.replace('ms', '')) >= 20 && int(self.replace('ms', '')) <= 60000 : int(self.replace('s', '')) >= 1 && int(self.replace('s', '')) <= 60)")
        .message("sampleInterval must be whole milliseconds or seconds from 20ms to 60s"))]
    pub sample_interval: Duration,
    /// GPU energy. `Auto`: read where there is a GPU, null with a reason elsewhere. `Required`: an error without a GPU whose
    /// energy can be read. `Disabled`: not read.
    #[serde(default)]
    pub gpu: GpuEnergy,
    /// CPU and memory energy. `Auto`: RAPL where it can be read, else an estimate, labelled so. `Rapl`: RAPL, or null with a
    /// reason. `Estimate`: from thermal design power and load, labelled so. `Disabled`: not read.
    #[serde(default)]
    pub cpu: CpuEnergy,
    /// Thermal design power of the CPU in watts, for the estimate; looked up by model name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub cpu_thermal_design_power_watts: Option<u32>,
}

impl Default for Energy {
    fn default() -> Self {
        Self {
            sample_interval: sample_interval(),
            gpu: GpuEnergy::default(),
            cpu: CpuEnergy::default(),
            cpu_thermal_design_power_watts: None,
        }
    }
}

const fn sample_interval() -> Duration {
    Duration::from_millis(100)
}

/// GPU energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum GpuEnergy {
    /// Read where there is a GPU; null with a reason elsewhere.
    #[default]
    Auto,
    /// An error without a GPU whose energy can be read.
    Required,
    /// Not read.
    Disabled,
}

/// CPU and memory energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum CpuEnergy {
    /// RAPL where it can be read, else an estimate, labelled so.
    #[default]
    Auto,
    /// RAPL, or null with a reason.
    Rapl,
    /// From thermal design power and load; labelled so.
    Estimate,
    /// Not read.
    Disabled,
}

/// Prices and carbon intensity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::decimal("self.powerUsageEffectiveness", "double(self.powerUsageEffectiveness) >= 1.0"))
    .message("powerUsageEffectiveness is total over IT power, so at least 1"))]
pub struct Pricing {
    /// Grams of CO2 equivalent per kilowatt-hour of the grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid_intensity_grams_per_kilowatt_hour: Option<Decimal>,
    /// Total power of the data centre over that of its computers.
    #[serde(default = "unity")]
    pub power_usage_effectiveness: Decimal,
    /// Price of a kilowatt-hour, in any one currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_price_per_kilowatt_hour: Option<Decimal>,
}

fn unity() -> Decimal {
    "1".parse().unwrap_or_default()
}
