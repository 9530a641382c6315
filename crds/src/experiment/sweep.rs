//! Sweep: which fields vary, and over which values.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// One axis of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SweepAxis {
    /// The field of the spec that varies.
    pub field: SweepField,
    /// Its values, as they would stand in the spec.
    #[schemars(length(min = 1, max = 100))]
    pub values: Vec<SweepValue>,
}

/// Every value that a sweep gives a field, with where it stands in the spec, such as `sweep[0].values[1]`.
pub fn swept_values(sweep: &[SweepAxis], field: SweepField) -> Vec<(String, &SweepValue)> {
    let axes = sweep.iter().enumerate().filter(|(_, axis)| axis.field == field);
    axes.flat_map(|(index, axis)| {
        let values = axis.values.iter().enumerate();
        values.map(move |(value, given)| (format!("sweep[{index}].values[{value}]"), given))
    })
    .collect()
}

macro_rules! sweep_fields {
    ($($variant:ident $path:literal $reload:literal $doc:literal;)*) => {
        /// The fields that may vary within one experiment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum SweepField {
            $(#[doc = $doc] #[serde(rename = $path)] $variant,)*
        }
        impl SweepField {
            /// Every sweepable field.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The path of the field inside the spec.
            pub const fn path(self) -> &'static str {
                match self { $(Self::$variant => $path,)* }
            }
            /// Whether another value means another load of the model, hence another cohort.
            pub const fn changes_load(self) -> bool {
                match self { $(Self::$variant => $reload,)* }
            }
        }
    };
}

sweep_fields! {
    ModelName "model.name" true "Name of the model.";
    DirectoryPath "model.source.directory.path" true "Path of the weights.";
    Revision "model.source.huggingFace.revision" true "Revision of the repository.";
    File "model.source.huggingFace.file" true "File of the repository.";
    Preset "model.source.synthetic.preset" true "Shape of the synthetic model.";
    Device "engine.candle.device" true "Device of the engine.";
    DType "engine.candle.dtype" true "Precision of the weights.";
    BatchSize "engine.candle.batching.static.batchSize" false "Sequences per static batch.";
    MaxSequences "engine.candle.batching.continuous.maxSequences" false "Sequences at once under continuous batching.";
    TokenBudget "engine.candle.batching.continuous.tokenBudget" false "Tokens of a step under continuous batching.";
    PrefixCaching "engine.candle.batching.continuous.prefixCaching" false "Whether prompts share their beginnings.";
    Requests "workload.requests" false "Requests per window.";
    MaxInputTokens "workload.maxInputTokens" false "Prompt length.";
    MaxOutputTokens "workload.maxOutputTokens" false "Output length.";
    Concurrency "workload.arrival.closedLoop.concurrency" false "Requests in the system.";
    RequestsPerSecond "workload.arrival.poisson.requestsPerSecond" false "Arrival rate.";
    Temperature "decoder.temperature" false "Softmax temperature.";
    Seed "decoder.seed" false "Seed of the decoder.";
}

/// A value of a swept field: an integer or a string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SweepValue {
    /// A whole number.
    Integer(i64),
    /// Text, also decimals.
    Text(String),
}

impl std::fmt::Display for SweepValue {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(formatter, "{value}"),
            Self::Text(value) => formatter.write_str(value),
        }
    }
}

impl JsonSchema for SweepValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SweepValue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true})
    }
}
