//! What the node energy agent says to runners over its Unix socket, one line of JSON each way per connection.
//!
//! The protocol reads only. Its clock is `CLOCK_MONOTONIC`, which all containers of a node share.

use serde::{Deserialize, Serialize};

use crate::{metrics::Unavailable, runner::Domain};

/// Version of the protocol; an agent answers with its own, and a reader refuses another.
pub const PROTOCOL: u32 = 1;

/// Names the socket to a runner.
pub const SOCKET_VARIABLE: &str = "LEM_ENERGY_SOCKET";

/// File name of the socket in the agent's folder.
pub const SOCKET: &str = "energy.sock";

/// Where a runner's container sees that folder.
pub const CONTAINER_FOLDER: &str = "/run/lem";

/// Resource of which each node with an agent has one: who holds it measures there alone.
pub const MEASUREMENT_SLOT: &str = "lem.dev/measurement-slot";

/// Resource that brings the socket to processes which may share a node.
pub const ENERGY_METER: &str = "lem.dev/energy-meter";

/// Longest request, bytes.
pub const LONGEST_REQUEST: usize = 256;

/// Longest answer that a reader takes, bytes.
pub const LONGEST_ANSWER: u64 = 4 << 20;

/// What a reader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CounterRequest {
    /// Only readings that began later, ns on `CLOCK_MONOTONIC`. Of these the agent gives what it has kept.
    pub after: u64,
}

/// What the agent has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterAnswer {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Name of the node, as the agent knows it.
    pub node: String,
    /// The kernel's boot id.
    pub boot: String,
    /// Name of this unbroken series: counters of two series have nothing in common. A restarted agent, a counter that
    /// was reset or could not be read for a while begin another.
    pub series: String,
    /// Why the series began.
    pub began: String,
    /// Time between two readings, ns; nobody can have them more often.
    pub interval: u64,
    /// The counters, in the order of each reading's values.
    pub counters: Vec<NodeCounter>,
    /// Ascending in time.
    pub readings: Vec<Vec<CounterValue>>,
    /// Why there are no counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<CountersUnavailable>,
}

/// One counter of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounter {
    /// What it covers.
    pub domain: Domain,
    /// `package-0`, `package-0-die-1`, `package-0/dram`.
    pub id: String,
    /// Number of the CPU socket, where the zone's name has it.
    pub socket: Option<u32>,
    /// Where the hardware's counter starts again from zero, µJ; the values here do not.
    pub range_microjoules: u64,
}

/// One value, written as `[from, to, microjoules]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 3]", into = "[u64; 3]")]
pub struct CounterValue {
    /// Before it was read, ns.
    pub from: u64,
    /// After it was read, ns.
    pub to: u64,
    /// Energy since the series began, wraps undone, µJ. Never less than in the reading before.
    pub microjoules: u64,
}

impl From<[u64; 3]> for CounterValue {
    fn from([from, to, microjoules]: [u64; 3]) -> Self {
        Self { from, to, microjoules }
    }
}

impl From<CounterValue> for [u64; 3] {
    fn from(value: CounterValue) -> Self {
        [value.from, value.to, value.microjoules]
    }
}

/// Why a node has no counters to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountersUnavailable {
    /// Bounded reason.
    pub reason: Unavailable,
    /// In words, with what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_three_numbers_so_that_minutes_of_readings_stay_small() {
        let value = CounterValue {
            from: 5,
            to: 7,
            microjoules: 1 << 60,
        };
        let written = serde_json::to_value(value).unwrap();
        assert_eq!(written, json!([5, 7, 1_u64 << 60]));
        assert_eq!(serde_json::from_value::<CounterValue>(written).unwrap(), value);
    }

    #[test]
    fn a_request_that_asks_for_something_else_is_refused() {
        assert!(serde_json::from_value::<CounterRequest>(json!({"after": 1, "write": 2})).is_err());
    }
}
