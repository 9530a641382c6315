//! Conditions: kept as they were until their status changes. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Types of the conditions, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionType {
    /// The spec can run here.
    Validated,
    /// Every process of the present cohort has a node.
    Scheduled,
    /// Trials are being measured.
    Measuring,
    /// Nothing more comes, and there are results.
    Complete,
    /// Nothing more comes, and there is no result.
    Failed,
    /// Nothing runs, by the user's wish.
    Suspended,
    /// Something stands in the way.
    Stalled,
    /// Of a schedule: it can be followed.
    Accepted,
    /// Of a schedule: its last experiment is worse than the baseline.
    Regressed,
}

impl ConditionType {
    /// As it stands in status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validated => "Validated",
            Self::Scheduled => "Scheduled",
            Self::Measuring => "Measuring",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Suspended => "Suspended",
            Self::Stalled => "Stalled",
            Self::Accepted => "Accepted",
            Self::Regressed => "Regressed",
        }
    }
}

/// What a condition should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which one.
    pub kind: ConditionType,
    /// Whether it holds; `None` where nothing is known of it.
    pub holds: Option<bool>,
    /// Bounded reason.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// The conditions as wanted, each with the time of its last transition.
pub fn merge(old: &[Condition], wanted: Vec<Wanted>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|wanted| {
            let status = match wanted.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let before = old.iter().find(|condition| condition.type_ == wanted.kind.name());
            let since = before.filter(|condition| condition.status == status).map_or_else(
                || Time(whole_seconds(now)),
                |condition| condition.last_transition_time.clone(),
            );
            Condition {
                type_: wanted.kind.name().to_owned(),
                status: status.to_owned(),
                reason: wanted.reason.to_owned(),
                message: wanted.message,
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// The API keeps whole seconds; anything finer would look like a change.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(holds: bool, message: &str) -> Vec<Wanted> {
        vec![Wanted {
            kind: ConditionType::Stalled,
            holds: Some(holds),
            reason: "Unschedulable",
            message: message.to_owned(),
        }]
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let first = merge(&[], wanted(true, "a"), Some(1), at(10));
        let second = merge(&first, wanted(true, "b"), Some(1), at(20));
        let third = merge(&second, wanted(false, "b"), Some(2), at(30));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].message, "b");
        assert_eq!(
            (third[0].last_transition_time.clone(), third[0].observed_generation),
            (Time(at(30)), Some(2))
        );
    }

    #[test]
    fn the_same_wish_gives_the_same_conditions() {
        let first = merge(&[], wanted(true, "a"), Some(1), at(10));
        assert_eq!(merge(&first, wanted(true, "a"), Some(1), at(99)), first);
    }
}
