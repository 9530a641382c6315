//! `lem run`: every trial that has no result yet, cohort by cohort, each kept on disk as soon as it is measured.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use lem_crds::{
    EfficiencyExperiment,
    experiment::{Device, Engine, GpuEnergy, Restart},
    plan::Point,
    status::Verdict,
};

use super::{
    child::{self, ChildError},
    cohort::{Cohort, CohortError, Setting, TrialEnd},
    progress::Progress,
    results::{Results, ResultsError},
    summary::{self, Summary, describe},
};
use crate::experiment::{
    self, Account, Failure, PlanError, Record, TrialSlot,
    schedule::{self, Known},
};
use crate::report::number::counted;

/// Why a run ended early. What was measured before is kept.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The sweep cannot be resolved.
    #[error("failed to plan the experiment")]
    Plan(#[source] PlanError),
    /// A field cannot be honoured on this machine.
    #[error("{field}: {message}")]
    Machine {
        /// The field.
        field: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// The runner's program is missing.
    #[error("failed to find the runner")]
    Runner(#[source] ChildError),
    /// A cohort ended for good.
    #[error("cohort {cohort} cannot go on")]
    Cohort {
        /// Name of the cohort.
        cohort: String,
        /// Why.
        #[source]
        source: CohortError,
    },
    /// Results could not be kept or read.
    #[error("failed to keep results")]
    Results(#[source] ResultsError),
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Results.
    pub summary: Summary,
    /// Records they rest on.
    pub records: Vec<Record>,
    /// Ended by Ctrl-C.
    pub interrupted: bool,
    /// Their folder, still held against other runs.
    pub results: Results,
}

/// Runs what has no result yet.
///
/// # Errors
/// See [`RunError`]; what was measured is kept in the folder.
pub fn run(
    experiment: &EfficiencyExperiment,
    folder: &Path,
    interrupted: &Arc<AtomicBool>,
    quiet: bool,
) -> Result<Outcome, RunError> {
    let spec = &experiment.spec;
    let points = experiment::plan(spec).map_err(RunError::Plan)?;
    let program = child::program().map_err(RunError::Runner)?;
    let gpus = assignable_gpus(experiment, &program)?;
    let results = Results::create(folder).map_err(RunError::Results)?;
    results
        .write_json("experiment.json", experiment)
        .map_err(RunError::Results)?;
    results.write_json("plan.json", &points).map_err(RunError::Results)?;

    let mut work = Work {
        experiment,
        points: &points,
        records: results.records().map_err(RunError::Results)?,
        failures: results.failures().map_err(RunError::Results)?,
        results: &results,
        interrupted,
        progress: Progress::new(0, quiet),
        retry_budget: 0,
    };
    // A run that is taken up again has its budget anew, and tries again what had no result.
    let slots = experiment::order_trials(&points, spec.protocol.cycles, &spec.protocol.order);
    let begun = schedule::retries_used(&work.known()) + schedule::unusable(&work.known(), &slots).count() as u32;
    work.retry_budget = spec.protocol.retry_budget + begun;
    let session = Timestamp::now().strftime("%Y%m%dT%H%M%S").to_string();
    let cohorts = experiment::group_cohorts(&points, &slots, spec.processes.restart).map_err(RunError::Plan)?;
    for members in &cohorts {
        let setting = Setting {
            experiment: experiment.metadata.name.clone().unwrap_or_default(),
            cohort: members.key.clone(),
            load: members.load.clone(),
            processes: spec.processes.count,
            gpus: gpus.clone(),
            threads: threads_per_process(spec.processes.count),
            program: program.clone(),
            session: session.clone(),
        };
        let end = work
            .cohort(&setting, &members.trials)
            .map_err(|source| RunError::Cohort {
                cohort: members.key.clone(),
                source,
            });
        work.records = results.records().map_err(RunError::Results)?;
        end?;
        if interrupted.load(Ordering::Relaxed) || work.over_budget().is_some() {
            break;
        }
    }
    let summary = summary::summarise(spec, &points, &work.records, &work.failures);
    let records = work.records;
    Ok(Outcome {
        summary,
        records,
        interrupted: interrupted.load(Ordering::Relaxed),
        results,
    })
}

struct Work<'a> {
    experiment: &'a EfficiencyExperiment,
    points: &'a [Point],
    records: Vec<Record>,
    failures: Vec<Failure>,
    results: &'a Results,
    interrupted: &'a Arc<AtomicBool>,
    progress: Progress,
    retry_budget: u32,
}

impl Work<'_> {
    fn known(&self) -> Known<'_> {
        Known {
            spec: &self.experiment.spec,
            points: self.points,
            records: &self.records,
            failures: &self.failures,
        }
    }

    /// Why the budget has no room for another trial.
    fn over_budget(&self) -> Option<String> {
        let spec = &self.experiment.spec;
        Account::of(&self.records).over_budget(spec, spec.processes.count)
    }

    /// Measures the missing trials of processes that share one load.
    fn cohort(&mut self, setting: &Setting, slots: &[TrialSlot]) -> Result<(), CohortError> {
        let spec = &self.experiment.spec;
        let Some(mut next) = schedule::next_trial(&self.known(), slots, self.retry_budget) else {
            return Ok(());
        };
        if let Some(words) = self.over_budget() {
            self.progress.warn(&words);
            return Ok(());
        }
        self.progress.extend(schedule::untried(&self.known(), slots) as u64);
        self.progress.say(&format!(
            "loading {} in {}",
            setting.load.model.name,
            counted(setting.processes as usize, "process", "processes")
        ));
        let mut cohort = Cohort::new(setting.clone(), self.results, Arc::clone(self.interrupted));
        let finish_within = spec.protocol.deadlines.load.get();
        loop {
            let (slot, attempt) = next;
            let cycle = slot.cycle;
            let Some((point, trial)) = self
                .points
                .iter()
                .find(|point| point.index == slot.point)
                .zip(self.known().identity(slot, attempt))
            else {
                break;
            };
            if attempt > 0 || cycle >= spec.protocol.cycles {
                self.progress.extend(1);
            }
            self.progress
                .say(&format!("{} · cycle {}{}", point.label(), cycle + 1, again(attempt)));
            let end = cohort.measure(point, &trial)?;
            self.records = self.results.records().map_err(CohortError::Results)?;
            match end {
                TrialEnd::Interrupted => return Ok(()),
                TrialEnd::Reported => {
                    let result = summary::evaluate(spec, point, &trial, &self.records, &self.failures);
                    if result.verdict == Verdict::Invalid {
                        self.progress
                            .warn(&format!("{} cycle {}: invalid", point.label(), cycle + 1));
                    }
                }
                TrialEnd::Failed(processes) => {
                    self.progress.warn(&format!(
                        "{} cycle {}: {}",
                        point.label(),
                        cycle + 1,
                        describe(&processes)
                    ));
                    self.failures.push(Failure { trial, processes });
                    self.results
                        .write_json("failures.json", &self.failures)
                        .map_err(CohortError::Results)?;
                }
            }
            self.progress.advance();
            match schedule::next_trial(&self.known(), slots, self.retry_budget) {
                Some(following) => next = following,
                None => break,
            }
            if let Some(words) = self.over_budget() {
                self.progress.warn(&words);
                break;
            }
            if spec.processes.restart == Restart::PerTrial {
                cohort.finish(finish_within)?;
                let session = format!("{}-{}-{cycle}-{attempt}", setting.session, slot.point);
                let setting = Setting {
                    session,
                    ..setting.clone()
                };
                cohort = Cohort::new(setting, self.results, Arc::clone(self.interrupted));
            }
        }
        self.progress.say("last baseline");
        cohort.finish(finish_within)
    }
}

fn again(attempt: u32) -> String {
    if attempt == 0 {
        String::new()
    } else {
        format!(" · attempt {}", attempt + 1)
    }
}

/// Engines of one machine share its CPUs: more threads than CPUs would measure the scheduler.
fn threads_per_process(processes: u32) -> usize {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    (available / processes.max(1) as usize).max(1)
}

/// The GPUs of this machine, if every process can have its own.
fn assignable_gpus(experiment: &EfficiencyExperiment, program: &Path) -> Result<Vec<String>, RunError> {
    let spec = &experiment.spec;
    let Engine::Candle(engine) = &spec.engine;
    let unused = spec.processes.gpus_per_process == 0
        || (spec.energy.gpu == GpuEnergy::Disabled && engine.device == Device::Cpu);
    if unused {
        return Ok(Vec::new());
    }
    let machine = |field, message: String| Err(RunError::Machine { field, message });
    let output = Command::new(program)
        .arg("gpus")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let uuids: Vec<String> = output
        .ok()
        .and_then(|output| serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout).ok())
        .unwrap_or_default()
        .iter()
        .filter_map(|gpu| gpu["uuid"].as_str().map(ToOwned::to_owned))
        .collect();
    let needed = (spec.processes.count * spec.processes.gpus_per_process) as usize;
    if uuids.is_empty() && spec.energy.gpu == GpuEnergy::Required {
        return machine(
            "spec.energy.gpu",
            "Required, but this machine has no GPU that NVML can read".to_owned(),
        );
    }
    if uuids.is_empty() && engine.device == Device::Cuda {
        return machine(
            "spec.engine.candle.device",
            "Cuda, but this machine has no GPU".to_owned(),
        );
    }
    if !uuids.is_empty() && uuids.len() < needed {
        return machine(
            "spec.processes.gpusPerProcess",
            format!(
                "{} processes × {} GPUs need {needed} GPUs, and this machine has {}",
                spec.processes.count,
                spec.processes.gpus_per_process,
                uuids.len()
            ),
        );
    }
    Ok(uuids)
}
