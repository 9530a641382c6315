//! Workload and decoder: what is asked of the model.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{self, KEY, NAME};
use crate::quantity::Decimal;

/// The requests of one measured window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Where the text of the requests comes from.
    #[serde(default)]
    pub prompts: Prompts,
    /// Requests that each process executes in one window; prompts are reused in order when there are fewer.
    #[serde(default = "default_requests")]
    #[schemars(range(min = 1, max = 100_000))]
    pub requests: u32,
    /// Longest prompt in tokens; the exact length of synthetic prompts. Longer text is cut from its end.
    #[serde(default = "default_input")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_input_tokens: u32,
    /// Most tokens that are generated for a request.
    #[serde(default = "default_output")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_output_tokens: u32,
    /// Generate maxOutputTokens even where the model would end earlier, so that windows are comparable.
    #[serde(default = "yes")]
    pub ignore_eos: bool,
    /// Take the time of each token; without it the times to the first token and between tokens (TTFT, ITL, TPOT) are null.
    #[serde(default = "yes")]
    pub streaming: bool,
    /// When requests are submitted.
    #[serde(default)]
    pub arrival: Arrival,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            prompts: Prompts::default(),
            requests: default_requests(),
            max_input_tokens: default_input(),
            max_output_tokens: default_output(),
            ignore_eos: true,
            streaming: true,
            arrival: Arrival::default(),
        }
    }
}

const fn default_requests() -> u32 {
    8
}
const fn default_input() -> u32 {
    128
}
const fn default_output() -> u32 {
    64
}
const fn yes() -> bool {
    true
}

/// Exactly one source of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Prompts {
    /// Seeded random tokens of exactly maxInputTokens.
    Synthetic(SyntheticPrompts),
    /// Texts in the experiment itself.
    Inline(#[schemars(length(min = 1, max = 1000))] Vec<String>),
    /// A file with one JSON object per line. Local runs only.
    JsonLines(JsonLines),
    /// A key of a ConfigMap with one JSON object per line. On a cluster only.
    ConfigMapRef(ConfigMapReference),
}

impl Default for Prompts {
    fn default() -> Self {
        Self::Synthetic(SyntheticPrompts::default())
    }
}

/// Seeded random tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyntheticPrompts {
    /// The same seed gives the same prompts, on every process and in every cycle.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub seed: u32,
}

/// A file of prompts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JsonLines {
    /// Path of the file, relative to the experiment file.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// Key of the text in each object.
    #[serde(default = "prompt_key")]
    pub field: String,
}

/// A key of a ConfigMap in the experiment's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapReference {
    /// Name of the ConfigMap.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub name: String,
    /// Key with the JSON lines.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(KEY.rule()).message(KEY.message))]
    pub key: String,
    /// Key of the text in each object.
    #[serde(default = "prompt_key")]
    pub field: String,
}

fn prompt_key() -> String {
    "prompt".to_owned()
}

/// Exactly one pattern of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Arrival {
    /// A fixed number of requests in the system: the next is submitted when one completes.
    ClosedLoop(ClosedLoop),
    /// Requests arrive independently at a mean rate; latency counts from the intended arrival.
    Poisson(Poisson),
}

impl Default for Arrival {
    fn default() -> Self {
        Self::ClosedLoop(ClosedLoop { concurrency: 1 })
    }
}

/// A fixed number of requests in the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClosedLoop {
    /// Requests submitted and not completed, queued ones included.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: u32,
}

const fn one() -> u32 {
    1
}

/// Arrivals with exponentially distributed gaps, seeded by the decoder's seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::decimal("self.requestsPerSecond", "double(self.requestsPerSecond) > 0.0 && double(self.requestsPerSecond) <= 100000.0"))
    .message("requestsPerSecond must be above 0 and at most 100000"))]
pub struct Poisson {
    /// Mean arrivals per second, for each process.
    pub requests_per_second: Decimal,
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::decimal("self.temperature", "!self.doSample || double(self.temperature) > 0.0"))
    .message("sampling needs a temperature above 0: set decoder.temperature, or decoder.doSample to false"))]
pub struct Decoder {
    /// Softmax temperature; used when doSample is true.
    #[serde(default)]
    pub temperature: Decimal,
    /// Sample from the distribution instead of taking the most likely token.
    #[serde(default)]
    pub do_sample: bool,
    /// Sample from the k most likely tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub top_k: Option<u32>,
    /// Sample from the smallest set of tokens whose probability reaches this; above 0, at most 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(rule::decimal("self", "double(self) > 0.0 && double(self) <= 1.0")).message("topP must be above 0 and at most 1"))]
    pub top_p: Option<Decimal>,
    /// Seed of sampling and of Poisson arrivals.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub seed: u32,
}
