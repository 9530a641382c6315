//! The order of points and cycles, and which of them share a load (METHODOLOGY §2). Pure: a seed decides the shuffle.

use lem_crds::{
    experiment::{Order, OrderPolicy, Restart},
    plan::{LoadPlan, Point, sha256},
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::plan::PlanError;

/// Hexadecimal digits of the load's hash in a cohort's name.
const KEY_DIGITS: usize = 10;

/// One repetition of one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialSlot {
    /// Index of the point.
    pub point: u32,
    /// Repetition, from 0.
    pub cycle: u32,
}

/// Every trial of the experiment once, in the order in which they run.
pub fn order_trials(points: &[Point], cycles: u32, order: &Order) -> Vec<TrialSlot> {
    let slot = |point: &Point, cycle| TrialSlot {
        point: point.index,
        cycle,
    };
    let by_cycle = || {
        (0..cycles)
            .flat_map(|cycle| points.iter().map(move |point| slot(point, cycle)))
            .collect()
    };
    match order.policy {
        OrderPolicy::Interleaved => by_cycle(),
        OrderPolicy::Sequential => points
            .iter()
            .flat_map(|point| (0..cycles).map(move |cycle| slot(point, cycle)))
            .collect(),
        OrderPolicy::Shuffled => {
            let mut trials: Vec<TrialSlot> = by_cycle();
            trials.shuffle(&mut ChaCha8Rng::seed_from_u64(u64::from(order.seed)));
            trials
        }
    }
}

/// Processes that share one load, and the trials they measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    /// Unique among the cohorts of an experiment; letters, digits and `-`.
    pub key: String,
    /// What is loaded.
    pub load: LoadPlan,
    /// The trials, in the order in which they run.
    pub trials: Vec<TrialSlot>,
}

/// Groups trials into cohorts, in order of first use: by equal load, by point or by trial, as `restart` says.
///
/// # Errors
/// A load plan that serialises to no JSON.
pub fn group_cohorts(points: &[Point], trials: &[TrialSlot], restart: Restart) -> Result<Vec<Cohort>, PlanError> {
    let mut cohorts: Vec<Cohort> = Vec::new();
    for slot in trials {
        let Some(point) = points.iter().find(|point| point.index == slot.point) else {
            continue;
        };
        let key = cohort_key(point, slot.cycle, restart)?;
        match cohorts.iter_mut().find(|cohort| cohort.key == key) {
            Some(cohort) => cohort.trials.push(*slot),
            None => cohorts.push(Cohort {
                key,
                load: point.load.clone(),
                trials: vec![*slot],
            }),
        }
    }
    Ok(cohorts)
}

/// The cohort that measures a cycle of a point.
///
/// # Errors
/// A load plan that serialises to no JSON.
pub fn cohort_key(point: &Point, cycle: u32, restart: Restart) -> Result<String, PlanError> {
    let mut load = sha256(&point.load).map_err(PlanError::Hash)?;
    load.truncate(KEY_DIGITS);
    Ok(match restart {
        Restart::Never => load,
        Restart::PerPoint => format!("{load}-p{}", point.index),
        Restart::PerTrial => format!("{load}-p{}-c{cycle}", point.index),
    })
}
