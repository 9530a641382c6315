//! From the raw records of processes to one answer per point, with its uncertainty and its doubts (METHODOLOGY).
//!
//! Everything here is pure: no client, no clock, no input or output. In order of use:
//! [`plan()`] resolves a spec into points, [`order_trials`] and [`group_cohorts`] say what runs when and on which load,
//! [`schedule`] says which of them is measured next, [`evaluate_trial`] makes a trial's figures, [`summarise_point`] a point's intervals, [`summary`] the whole status, [`compare()`] and
//! [`fleet_outliers`] judge points against each other.
//!
//! Inside a trial: `completeness` (who reported) → `attribution` and `energy` (each counter once) → `latency`,
//! `aggregate`, `devices` (sums and pools) → `efficiency` (the only place of ratios) → `verdict` (doubts).

mod aggregate;
mod attribution;
mod availability;
mod choice;
mod comparable;
mod compare;
mod completeness;
mod cost;
mod devices;
mod efficiency;
mod energy;
mod fleet;
mod latency;
mod order;
mod parts;
mod peak;
mod plan;
mod point;
mod record;
mod regression;
pub mod schedule;
mod statistics;
pub mod summary;
mod table;
mod trial;
mod verdict;
mod work;

pub use self::{
    choice::{Values, cheapest, objective, pareto_front},
    compare::{
        Comparison, FleetMember, FleetOutlier, MINIMUM_FLEET, OUTLIER_DEVIATIONS, Outcome, Refusal, Side, compare,
        fleet_outliers, higher_is_better,
    },
    cost::{Account, plan_status},
    fleet::{ClassResult, Most, NodePoint, NodeResult, class_means, classes, fleet_members, node_means, node_trials},
    order::{Cohort, TrialSlot, cohort_key, group_cohorts, order_trials},
    plan::{MAXIMUM_POINTS, PlanError, plan},
    point::{
        averaged_trials, cycle_mean, cycle_values, needs_another_cycle, node_class, stop_rule_satisfied,
        summarise_point, usable_trials,
    },
    record::{Failure, Record, find_window},
    regression::{Judgement, MeasuredPoint, judge, measured_fleet, measured_points},
    statistics::estimate,
    trial::{ProcessInput, TrialInput, evaluate_trial},
    verdict::{
        CLOCK_DIFFERENCE_LIMIT_SECONDS, DRIFT_LIMIT, INTEGRAL_LIMIT, MINIMUM_UPDATE_PERIODS, OVERLAP_LIMIT,
        START_SKEW_LIMIT_MILLISECONDS, THROTTLED_SHARE_LIMIT,
    },
    work::{Work, work},
};

#[cfg(test)]
pub(crate) mod tests;
