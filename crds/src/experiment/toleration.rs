//! Which taints processes put up with, in a form that the API server of a pod cannot refuse.

use k8s_openapi::api::core::v1;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{LABEL, LABEL_KEY};

/// A taint that the processes put up with, as in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.key) && self.key != '' || self.operator == 'Exists'")
        .message("a toleration without a key is one of all taints: set operator to Exists"),
    validation = Rule::new("self.operator != 'Exists' || !has(self.value) || self.value == ''")
        .message("operator Exists takes no value: remove value, or set operator to Equal"),
    validation = Rule::new("!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'")
        .message("tolerationSeconds needs effect NoExecute")
)]
pub struct Toleration {
    /// Key of the taint; every one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    #[x_kube(validation = Rule::new(LABEL_KEY.rule()).message(LABEL_KEY.message))]
    pub key: Option<String>,
    /// How the taint's value is compared.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint, for Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new(LABEL.rule()).message(LABEL.message))]
    pub value: Option<String>,
    /// Effect of the taint; every one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a process stays after such a taint appears; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a taint's value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// The value is the same.
    #[default]
    Equal,
    /// Any value.
    Exists,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// No new pods where there is another node.
    PreferNoSchedule,
    /// No pods at all.
    NoExecute,
}

impl TaintEffect {
    /// As a taint has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

impl From<Toleration> for v1::Toleration {
    fn from(toleration: Toleration) -> Self {
        let operator = match toleration.operator {
            TolerationOperator::Equal => "Equal",
            TolerationOperator::Exists => "Exists",
        };
        Self {
            key: toleration.key,
            operator: Some(operator.to_owned()),
            value: toleration.value,
            effect: toleration.effect.map(|effect| effect.name().to_owned()),
            toleration_seconds: toleration.toleration_seconds,
        }
    }
}
