//! Comparing two points on their cycles, and nodes of one class with each other (METHODOLOGY §11). Pure.

use std::collections::BTreeMap;

use lem_crds::runner::DeviceObservation;

use super::statistics::{CONFIDENCE, mean, median, welch_half_width};

/// Distance from the median, in median absolute deviations, beyond which a node is an outlier.
pub const OUTLIER_DEVIATIONS: f64 = 3.5;
/// Fewest nodes of a class among which outliers are looked for.
pub const MINIMUM_FLEET: usize = 5;

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Side<'a> {
    /// The metric's value in each cycle; of a fleet the mean of each node.
    pub values: &'a [f64],
    /// Domains in the total energy.
    pub energy_scope: &'a [String],
    /// Sources of the total energy.
    pub energy_sources: &'a [String],
    /// Class of the nodes.
    pub node_class: &'a str,
    /// Version of the raw facts.
    pub schema_version: u32,
}

/// What the cycles show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The candidate is better than the baseline.
    Better,
    /// The candidate is worse than the baseline.
    Worse,
    /// The interval of the ratio contains 1.
    NoDifferenceShown,
}

/// A ratio with its interval, and what it means for this metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Candidate over baseline, of geometric means.
    pub ratio: f64,
    /// Lower bound of the 95 % interval of the ratio.
    pub lower: f64,
    /// Upper bound of the 95 % interval of the ratio.
    pub upper: f64,
    /// Better, worse or no difference shown.
    pub outcome: Outcome,
}

/// Why two points are not compared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Totals of different domains.
    #[error("the energy scopes differ: {baseline} against {candidate}")]
    EnergyScope {
        /// Of the baseline.
        baseline: String,
        /// Of the candidate.
        candidate: String,
    },
    /// Totals from different sources.
    #[error("the energy sources differ: {baseline} against {candidate}")]
    EnergySources {
        /// Of the baseline.
        baseline: String,
        /// Of the candidate.
        candidate: String,
    },
    /// Different hardware or driver.
    #[error("the node classes differ: {baseline} against {candidate}")]
    NodeClass {
        /// Of the baseline.
        baseline: String,
        /// Of the candidate.
        candidate: String,
    },
    /// Records of different versions.
    #[error("the schema versions differ: {baseline} against {candidate}")]
    SchemaVersion {
        /// Of the baseline.
        baseline: u32,
        /// Of the candidate.
        candidate: u32,
    },
    /// The spread between nodes is not that between the cycles of one.
    #[error(
        "the means of nodes of a fleet are not compared with cycles: compare two fleets, or two experiments that are none"
    )]
    Units,
    /// One value has no spread.
    #[error(
        "a comparison needs at least 2 cycles, or nodes of a fleet, on each side, there are {baseline} and {candidate}"
    )]
    TooFewCycles {
        /// Of the baseline.
        baseline: usize,
        /// Of the candidate.
        candidate: usize,
    },
    /// No logarithm.
    #[error("{value} has no logarithm, so there is no ratio to compare")]
    NotPositive {
        /// The value.
        value: f64,
    },
    /// Neither more nor less is better.
    #[error("neither more nor less of {metric} is better")]
    NoDirection {
        /// The metric.
        metric: String,
    },
}

/// Welch's t on the logarithm of the metric over cycles: the ratio of candidate to baseline with its 95 % interval
/// (METHODOLOGY §11).
///
/// # Errors
/// Sides that measured different things are refused with the reason.
pub fn compare(metric: &str, baseline: &Side<'_>, candidate: &Side<'_>) -> Result<Comparison, Refusal> {
    compare_at(metric, baseline, candidate, CONFIDENCE)
}

/// [`compare`] with an interval of another confidence, for one of several comparisons.
///
/// # Errors
/// As those of [`compare`].
pub(super) fn compare_at(
    metric: &str,
    baseline: &Side<'_>,
    candidate: &Side<'_>,
    confidence: f64,
) -> Result<Comparison, Refusal> {
    comparable(baseline, candidate)?;
    let higher_is_better = higher_is_better(metric).ok_or_else(|| Refusal::NoDirection {
        metric: metric.to_owned(),
    })?;
    let (before, after) = (logarithms(baseline.values)?, logarithms(candidate.values)?);
    let too_few = || Refusal::TooFewCycles {
        baseline: before.len(),
        candidate: after.len(),
    };
    let half_width = welch_half_width(&before, &after, confidence).ok_or_else(too_few)?;
    let difference = mean(&after) - mean(&before);
    let (lower, upper) = (difference - half_width, difference + half_width);
    let outcome = if lower > 0.0 {
        if higher_is_better {
            Outcome::Better
        } else {
            Outcome::Worse
        }
    } else if upper < 0.0 {
        if higher_is_better {
            Outcome::Worse
        } else {
            Outcome::Better
        }
    } else {
        Outcome::NoDifferenceShown
    };
    Ok(Comparison {
        ratio: difference.exp(),
        lower: lower.exp(),
        upper: upper.exp(),
        outcome,
    })
}

fn comparable(baseline: &Side<'_>, candidate: &Side<'_>) -> Result<(), Refusal> {
    if baseline.schema_version != candidate.schema_version {
        return Err(Refusal::SchemaVersion {
            baseline: baseline.schema_version,
            candidate: candidate.schema_version,
        });
    }
    if baseline.node_class != candidate.node_class {
        return Err(Refusal::NodeClass {
            baseline: baseline.node_class.to_owned(),
            candidate: candidate.node_class.to_owned(),
        });
    }
    if baseline.energy_scope != candidate.energy_scope {
        return Err(Refusal::EnergyScope {
            baseline: baseline.energy_scope.join("+"),
            candidate: candidate.energy_scope.join("+"),
        });
    }
    if baseline.energy_sources != candidate.energy_sources {
        return Err(Refusal::EnergySources {
            baseline: baseline.energy_sources.join("+"),
            candidate: candidate.energy_sources.join("+"),
        });
    }
    Ok(())
}

fn logarithms(values: &[f64]) -> Result<Vec<f64>, Refusal> {
    let logarithm = |value: &f64| {
        if *value > 0.0 {
            Ok(value.ln())
        } else {
            Err(Refusal::NotPositive { value: *value })
        }
    };
    values.iter().map(logarithm).collect()
}

/// Whether more of a metric (either spelling of its name) is better; `None` where neither more nor less is.
pub fn higher_is_better(metric: &str) -> Option<bool> {
    lem_crds::metrics::definition(metric)?.higher_is_better()
}

/// What is known of one node when a fleet is compared with itself.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetMember {
    /// Name of the node.
    pub node: String,
    /// Its class; only nodes of one class are compared.
    pub node_class: String,
    /// Its joules per token.
    pub joules_per_token: f64,
    /// What its GPUs showed: temperature, clocks, power limit and throttle time.
    pub devices: Vec<DeviceObservation>,
}

/// A node that leaves the range of its class.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetOutlier<'a> {
    /// The node, with its temperature, clocks, power limit and throttle time.
    pub member: &'a FleetMember,
    /// Median of its class.
    pub median: f64,
    /// Lower end of the range.
    pub lower: f64,
    /// Upper end of the range.
    pub upper: f64,
}

/// Nodes whose joules per token leave median ± 3.5 × MAD of their class, in classes of 5 nodes or more
/// (METHODOLOGY §11).
pub fn fleet_outliers(members: &[FleetMember]) -> Vec<FleetOutlier<'_>> {
    let mut classes: BTreeMap<&str, Vec<&FleetMember>> = BTreeMap::new();
    for member in members {
        classes.entry(&member.node_class).or_default().push(member);
    }
    classes
        .into_values()
        .filter(|class| class.len() >= MINIMUM_FLEET)
        .flat_map(|class| outliers(&class))
        .collect()
}

fn outliers<'a>(class: &[&'a FleetMember]) -> Vec<FleetOutlier<'a>> {
    let values: Vec<f64> = class.iter().map(|member| member.joules_per_token).collect();
    let Some(usual) = usual_range(&values) else {
        return Vec::new();
    };
    let outside = class.iter().filter(|member| !usual.contains(member.joules_per_token));
    outside
        .map(|member| FleetOutlier {
            member,
            median: usual.median,
            lower: usual.lower,
            upper: usual.upper,
        })
        .collect()
}

/// Median ± 3.5 × MAD.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct UsualRange {
    pub(super) median: f64,
    pub(super) deviation: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
}

impl UsualRange {
    pub(super) fn contains(&self, value: f64) -> bool {
        (self.lower..=self.upper).contains(&value)
    }
}

/// The range of a class. The deviation is the plain median of |x − median|, not scaled to a normal distribution. `None`
/// without values.
pub(super) fn usual_range(values: &[f64]) -> Option<UsualRange> {
    let middle = median(values)?;
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let deviation = median(&distances)?;
    Some(UsualRange {
        median: middle,
        deviation,
        lower: middle - OUTLIER_DEVIATIONS * deviation,
        upper: middle + OUTLIER_DEVIATIONS * deviation,
    })
}
