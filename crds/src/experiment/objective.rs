//! Which point of a sweep is the best, and what the experiment may spend on finding it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    metrics,
    quantity::{DECIMAL_PATTERN, Limit},
};

/// The best point: the one with the least, or the most, of a metric among those that keep every limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.minimise) != has(self.maximise)")
    .message("exactly one of minimise and maximise names the metric"))]
pub struct Objective {
    /// The metric of which the best point has the least, by its name in status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = metrics::keys_with_direction(false).collect::<Vec<_>>()))]
    pub minimise: Option<String>,
    /// The metric of which the best point has the most, by its name in status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = metrics::keys_with_direction(true).collect::<Vec<_>>()))]
    pub maximise: Option<String>,
    /// Limits that the best point keeps, by the metric's name in status: at most so much where less is better, at least so
    /// much where more is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(
        validation = Rule::new(format!("self.all(key, key in {})", metrics::with_direction())).message("each limit must name a metric of status of which more or less is better, such as ttftP95Ms"),
        validation = Rule::new(format!("self.all(key, string(self[key]).matches('{DECIMAL_PATTERN}'))"))
            .message("a limit must be a number and not negative, such as 500 or \"0.5\"")
    )]
    pub subject_to: BTreeMap<String, Limit>,
}

impl Objective {
    /// The metric that decides, by its name in status.
    pub fn metric(&self) -> &str {
        let named = self.minimise.as_deref().or(self.maximise.as_deref());
        named.unwrap_or("joulesPerToken")
    }
}

/// What an experiment may spend. When the next trial would go beyond it, the experiment ends as `Partial` with what was
/// measured; it may be raised while the experiment runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.maxGpuSeconds) || has(self.maxEnergyJoules)")
    .message("a budget limits something: set maxGpuSeconds or maxEnergyJoules"))]
pub struct Budget {
    /// Seconds of GPUs held by its processes, whatever they do meanwhile, summed over GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub max_gpu_seconds: Option<u64>,
    /// Joules of all metered domains. Windows count as metered; loading, warming up and waiting count with the mean power of
    /// the windows, so the sum is rather too high than too low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub max_energy_joules: Option<u64>,
}
