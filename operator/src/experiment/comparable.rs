//! Whose energy may be compared: totals of the same domains from the same sources (METHODOLOGY §11). Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use lem_crds::{
    runner::Source,
    status::{PointResult, TrialResult},
};

/// Domains in a total, and how they were read.
pub(super) type Energy<'a> = (&'a [String], &'a [String]);

/// What has a total energy.
pub(super) trait Metered {
    /// What it is a total of.
    fn energy(&self) -> Energy<'_>;
}

impl Metered for &TrialResult {
    fn energy(&self) -> Energy<'_> {
        (&self.energy_scope, &self.energy_sources)
    }
}

impl Metered for &PointResult {
    fn energy(&self) -> Energy<'_> {
        (&self.energy_scope, &self.energy_sources)
    }
}

/// Which of several energies stays, where only one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prevailing {
    /// Of the most domains: what one experiment could measure once, it can again.
    Widest,
    /// Of the most members: a node that is unlike the others is none to judge them by.
    Usual,
}

/// The members of the prevailing energy, in their order. Of those that prevail alike the one that is measured stays, and then
/// the first by name.
pub(super) fn same_energy<T: Metered>(members: Vec<T>, prevailing: Prevailing) -> Vec<T> {
    let mut counts: BTreeMap<Energy<'_>, usize> = BTreeMap::new();
    for member in &members {
        *counts.entry(member.energy()).or_default() += 1;
    }
    let chosen = counts.into_iter().max_by_key(|((scope, sources), count)| {
        let ranks = match prevailing {
            Prevailing::Widest => (scope.len(), *count),
            Prevailing::Usual => (*count, scope.len()),
        };
        let measured = sources.iter().all(|source| source != Source::Estimate.name());
        (ranks, measured, Reverse((*scope, *sources)))
    });
    let Some((chosen, _)) = chosen else {
        return members;
    };
    let stays: Vec<bool> = members.iter().map(|member| member.energy() == chosen).collect();
    let both = members.into_iter().zip(stays);
    both.filter_map(|(member, stays)| stays.then_some(member)).collect()
}
