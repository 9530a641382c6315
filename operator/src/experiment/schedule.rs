//! What is measured next, given everything that was measured so far (METHODOLOGY §2, §9). Pure, and a function of the
//! records alone: a process that starts in the middle decides the same as one that was there from the beginning.
//!
//! `lem run` and the operator ask the same question here, one for its children and one for its pods.

use std::collections::BTreeSet;

use lem_crds::{
    EfficiencyExperimentSpec,
    plan::{Point, TrialIdentity},
    status::Verdict,
};

use super::{
    Failure, Record, TrialSlot, needs_another_cycle,
    summary::{self, Attempt},
};

/// Everything that was asked for and everything that is known.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The experiment.
    pub spec: &'a EfficiencyExperimentSpec,
    /// Its points.
    pub points: &'a [Point],
    /// What processes reported.
    pub records: &'a [Record],
    /// Trials that did not come to all their windows.
    pub failures: &'a [Failure],
}

impl Known<'_> {
    fn point(&self, slot: TrialSlot) -> Option<&Point> {
        self.points.iter().find(|point| point.index == slot.point)
    }

    /// Number of a slot's last attempt; none if it was never tried.
    fn last_number(&self, slot: TrialSlot) -> Option<u32> {
        summary::attempt_numbers(self.point(slot)?, slot.cycle, self.records, self.failures).pop_last()
    }

    /// A slot's last attempt, evaluated.
    fn last_attempt(&self, slot: TrialSlot) -> Option<Attempt> {
        let of_slot = (slot.cycle, self.last_number(slot)?);
        Some(summary::attempt(
            self.spec,
            self.point(slot)?,
            of_slot,
            self.records,
            self.failures,
        ))
    }

    /// The identity of a slot's attempt.
    pub fn identity(&self, slot: TrialSlot, attempt: u32) -> Option<TrialIdentity> {
        let point = self.point(slot)?;
        Some(TrialIdentity {
            plan_sha256: point.plan_sha256.clone(),
            point: point.index,
            cycle: slot.cycle,
            attempt,
        })
    }

    /// Cycles of a point that have left a trace, or were planned.
    fn cycles(&self, point: &Point) -> u32 {
        let windows = self.records.iter().flat_map(|record| &record.status.windows);
        let traces = windows
            .map(|window| &window.trial)
            .chain(self.failures.iter().map(|failure| &failure.trial));
        let seen = traces
            .filter(|trial| trial.plan_sha256 == point.plan_sha256)
            .map(|trial| trial.cycle + 1);
        seen.max().unwrap_or(0).max(self.spec.protocol.cycles)
    }
}

/// A trial has a result that a mean may contain.
fn usable(attempt: &Attempt) -> bool {
    attempt.complete && attempt.result.verdict != Verdict::Invalid
}

/// Attempts beyond the first of every trial: what the budget is spent on.
pub fn retries_used(known: &Known<'_>) -> u32 {
    let of_point = |point: &Point| {
        (0..known.cycles(point))
            .map(|cycle| {
                let slot = TrialSlot {
                    point: point.index,
                    cycle,
                };
                known.last_number(slot).unwrap_or(0)
            })
            .sum::<u32>()
    };
    known.points.iter().map(of_point).sum()
}

/// Trials of these slots that were tried and have no usable result.
pub fn unusable(known: &Known<'_>, slots: &[TrialSlot]) -> impl Iterator<Item = (TrialSlot, u32)> {
    slots.iter().filter_map(|slot| {
        let last = known.last_attempt(*slot)?;
        (!usable(&last)).then_some((*slot, last.number + 1))
    })
}

/// The trial that a cohort measures next, with the number of its attempt; none if it is done.
///
/// First each trial once, in the planned order; then those without a usable result, as long as the budget lasts; then
/// one cycle more for each point whose interval is still wider than the stop rule asks.
pub fn next_trial(known: &Known<'_>, slots: &[TrialSlot], retry_budget: u32) -> Option<(TrialSlot, u32)> {
    if let Some(fresh) = first_untried(known, slots) {
        return Some((fresh, 0));
    }
    let slots = with_extensions(known, slots);
    if retries_used(known) < retry_budget
        && let Some(again) = unusable(known, &slots).next()
    {
        return Some(again);
    }
    let fewest_cycles_first = |slot: &TrialSlot| (slot.cycle, slot.point);
    extensions(known, &slots)
        .into_iter()
        .min_by_key(fewest_cycles_first)
        .map(|slot| (slot, 0))
}

/// The first of these slots, in their planned order, that was never tried.
pub fn first_untried(known: &Known<'_>, slots: &[TrialSlot]) -> Option<TrialSlot> {
    let mut slots = with_extensions(known, slots).into_iter();
    slots.find(|slot| known.last_number(*slot).is_none())
}

/// How many of these slots were never tried.
pub fn untried(known: &Known<'_>, slots: &[TrialSlot]) -> usize {
    slots.iter().filter(|slot| known.last_number(**slot).is_none()).count()
}

/// The planned slots of a cohort, and those that a stop rule has added to its points so far.
fn with_extensions(known: &Known<'_>, slots: &[TrialSlot]) -> Vec<TrialSlot> {
    let mut all = slots.to_vec();
    if known.spec.protocol.stop_rule.is_none() {
        return all;
    }
    let members: BTreeSet<u32> = slots.iter().map(|slot| slot.point).collect();
    for point in known.points.iter().filter(|point| members.contains(&point.index)) {
        let added = (known.spec.protocol.cycles..known.cycles(point)).map(|cycle| TrialSlot {
            point: point.index,
            cycle,
        });
        all.extend(added);
    }
    all
}

/// One more cycle for each point of the cohort whose interval is still wider than the stop rule asks.
fn extensions(known: &Known<'_>, slots: &[TrialSlot]) -> Vec<TrialSlot> {
    let Some(rule) = &known.spec.protocol.stop_rule else {
        return Vec::new();
    };
    let planned = known.spec.protocol.cycles;
    let members: BTreeSet<u32> = slots.iter().map(|slot| slot.point).collect();
    let summary = summary::summarise(known.spec, known.points, known.records, known.failures);
    let results = summary.status.points.iter();
    results
        .filter(|result| members.contains(&result.index))
        .filter_map(|result| {
            let point = known.points.iter().find(|point| point.index == result.index)?;
            let done = known.cycles(point);
            let wanted = done >= planned && needs_another_cycle(planned, Some(rule), done, result);
            wanted.then_some(TrialSlot {
                point: result.index,
                cycle: done,
            })
        })
        .collect()
}
