//! A part of a pod's spec, for what no field of the experiment names.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A part of a pod's spec. [`crate::validate::pod_patch`] says what may stand in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PodPatch(pub BTreeMap<String, Value>);

impl PodPatch {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl JsonSchema for PodPatch {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PodPatch".into()
    }

    /// Values of any kind under any name, and not one object of unknown fields: CEL compares a map's keys, so that a
    /// field in place of another counts as a change of the spec.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": 64,
            "additionalProperties": {"x-kubernetes-preserve-unknown-fields": true},
        })
    }
}
