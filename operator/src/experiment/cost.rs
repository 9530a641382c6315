//! What an experiment has spent, what it will have spent, and whether its budget has room for more (METHODOLOGY §2, cost
//! of measuring). Pure.

use std::collections::BTreeSet;

use lem_crds::{
    EfficiencyExperimentSpec,
    experiment::Restart,
    plan::TrialIdentity,
    runner::CounterIdentity,
    status::{Forecast, PlanStatus, Spent},
};

use super::{Record, work::Work};

/// What processes have reported of their time and energy; accounts of disjoint processes add up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Account {
    /// Seconds that they have held their place.
    held: f64,
    /// Those of loading and of baselines, which another trial does not repeat.
    once: f64,
    /// Those in windows.
    measured: f64,
    /// Metered in windows.
    joules: Option<f64>,
    /// Windows.
    windows: u32,
    /// Loads of the model.
    loads: u32,
}

impl Account {
    /// From everything that some processes have reported. A counter that several of them have read counts once in a trial.
    pub fn of(records: &[Record]) -> Self {
        let mut account = Self::default();
        let mut counted: BTreeSet<(&TrialIdentity, &CounterIdentity)> = BTreeSet::new();
        for status in records.iter().map(|record| &record.status) {
            account.held += status.held.total;
            account.once += status.held.load + status.held.baseline;
            account.measured += status.held.measured;
            account.windows += status.windows.len() as u32;
            account.loads += u32::from(status.held.load > 0.0);
            for window in &status.windows {
                for reading in &window.energy {
                    if let Some(joules) = reading.joules
                        && counted.insert((&window.trial, &reading.counter))
                    {
                        *account.joules.get_or_insert(0.0) += joules;
                    }
                }
            }
        }
        account
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            held: self.held + other.held,
            once: self.once + other.once,
            measured: self.measured + other.measured,
            joules: match (self.joules, other.joules) {
                (Some(one), Some(more)) => Some(one + more),
                (one, more) => one.or(more),
            },
            windows: self.windows + other.windows,
            loads: self.loads + other.loads,
        }
    }

    /// What was spent. Nothing meters a process outside of its windows; the time there counts with their mean power.
    pub fn spent(&self, spec: &EfficiencyExperimentSpec) -> Spent {
        self.at(spec, self.held)
    }

    fn at(&self, spec: &EfficiencyExperimentSpec, process_seconds: f64) -> Spent {
        let power = self.joules.filter(|_| self.measured > 0.0);
        Spent {
            process_seconds,
            gpu_seconds: process_seconds * f64::from(spec.processes.gpus_per_process),
            energy_joules: power.map(|joules| joules / self.measured * process_seconds),
        }
    }

    /// Seconds that one more window takes, by those so far; none are known before the first.
    fn seconds_of_a_window(&self, spec: &EfficiencyExperimentSpec) -> f64 {
        if self.windows == 0 {
            return 0.0;
        }
        let repeated = match spec.processes.restart {
            Restart::PerTrial => self.held,
            Restart::Never | Restart::PerPoint => (self.held - self.once).max(0.0),
        };
        repeated / f64::from(self.windows)
    }

    /// Why so many further windows are beyond the budget; none if they are within it.
    pub fn over_budget(&self, spec: &EfficiencyExperimentSpec, windows: u32) -> Option<String> {
        let budget = spec.budget.as_ref()?;
        let spent = self.spent(spec);
        let then = self.at(spec, self.held + self.seconds_of_a_window(spec) * f64::from(windows));
        let over = |field: &str, unit: &str, most: Option<u64>, spent: Option<f64>, then: Option<f64>| {
            let (most, spent, then) = (most?, spent?, then?);
            (then > most as f64 || spent >= most as f64).then(|| {
                format!(
                    "spec.budget.{field}: {spent:.0} of {most} {unit} are spent, and what comes next takes about {:.0} more",
                    then - spent
                )
            })
        };
        let gpu = (Some(spent.gpu_seconds), Some(then.gpu_seconds));
        over("maxGpuSeconds", "GPU seconds", budget.max_gpu_seconds, gpu.0, gpu.1).or_else(|| {
            let (spent, then) = (spent.energy_joules, then.energy_joules);
            over("maxEnergyJoules", "joules", budget.max_energy_joules, spent, then)
        })
    }

    /// What the whole will have cost; none before the first window. `left` windows are still to be measured, on loads of
    /// which the plan has `loads` in all.
    fn forecast(&self, spec: &EfficiencyExperimentSpec, left: u32, loads: u32) -> Option<Forecast> {
        if self.windows == 0 {
            return None;
        }
        let of_a_load = self.once / f64::from(self.loads.max(1));
        let further_loads = match spec.processes.restart {
            Restart::PerTrial => 0.0, // in the seconds of a window
            Restart::Never | Restart::PerPoint => f64::from(loads.saturating_sub(self.loads)),
        };
        let seconds = self.held + self.seconds_of_a_window(spec) * f64::from(left) + of_a_load * further_loads;
        let spent = self.at(spec, seconds);
        Some(Forecast {
            trials: self.windows / spec.processes.count.max(1),
            process_seconds: spent.process_seconds,
            gpu_seconds: spent.gpu_seconds,
            energy_joules: spent.energy_joules,
        })
    }
}

/// The plan of an experiment whose `work` each of `processes` processes does, of which `finished` trials of `planned` have a
/// result. A fleet's processes are those of all its nodes.
pub fn plan_status(
    spec: &EfficiencyExperimentSpec,
    work: &Work,
    account: &Account,
    (finished, planned): (u32, u32),
    processes: u32,
) -> PlanStatus {
    let windows_of_a_trial = spec.processes.count;
    let left = planned.saturating_sub(finished) * windows_of_a_trial;
    let gpus = f64::from(spec.processes.gpus_per_process);
    PlanStatus {
        points: work.points as u32,
        processes,
        loads: work.loads as u32,
        trials: work.trials as u32,
        windows: work.trials as u32 * processes,
        requests_per_process: work.requests_per_process,
        tokens_per_process: work.tokens_per_process,
        fixed_seconds: work.fixed_seconds,
        least_gpu_seconds: work.fixed_seconds * gpus * f64::from(processes),
        forecast: account.forecast(spec, left, work.loads as u32 * processes),
    }
}
