//! Model and engine: what is executed, and by what.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rule::{KEY, NAME};

/// The model and the source of its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Name under which results are reported; for `huggingFace` also the repository, such as `meta-llama/Llama-3.1-8B`.
    #[schemars(length(min = 1, max = 200))]
    pub name: String,
    /// Where the weights come from. Only safetensors and GGUF are read; nothing is executed while loading.
    pub source: ModelSource,
}

/// Exactly one source of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ModelSource {
    /// A folder with safetensors, `config.json` and `tokenizer.json`, or one GGUF file, on the measuring machine.
    Directory(DirectorySource),
    /// A repository on the Hugging Face Hub; `model.name` is its name.
    HuggingFace(HuggingFaceSource),
    /// Seeded random weights of a known shape: throughput and energy do not depend on the values.
    Synthetic(SyntheticSource),
    /// A volume that already holds the model. On a cluster only.
    PersistentVolumeClaim(PersistentVolumeClaimSource),
    /// An OCI image that holds the model, mounted as an image volume. On a cluster only.
    Image(ImageSource),
}

/// A path on the measuring machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectorySource {
    /// Folder or `.gguf` file; relative to the experiment file for `lem run`.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// A repository on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// Branch, tag or commit.
    #[serde(default = "main_revision")]
    #[schemars(length(min = 1, max = 200))]
    pub revision: String,
    /// A file of the repository to load instead of its safetensors, such as `model.Q4_K_M.gguf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Secret with the access token for gated repositories. On a cluster only: `lem run` reads `HF_TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyReference>,
}

fn main_revision() -> String {
    "main".to_owned()
}

/// One key of a Secret in the experiment's namespace. The operator never reads it; the pod mounts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(KEY.rule()).message(KEY.message))]
    pub key: String,
}

/// Random weights of a preset's or an explicit shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.preset) != has(self.architecture)")
    .message("give exactly one of preset and architecture"))]
pub struct SyntheticSource {
    /// A known shape: `smollm2-135m`, `tinyllama-1.1b`, `llama-3.2-1b`, `llama-3.1-8b`, `llama-3.1-70b`, `qwen3-8b`, `mistral-7b`, `tiny-test`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub preset: Option<String>,
    /// An explicit shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Seed of the weights.
    #[serde(default)]
    #[schemars(range(max = 4_294_967_295_u32))]
    pub seed: u32,
}

/// Families whose layers the synthetic source can build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ArchitectureFamily {
    /// Llama 2/3, `SmolLM2`, `TinyLlama`.
    #[default]
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
}

/// The shape of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.attentionHeads % self.keyValueHeads == 0")
    .message("attentionHeads must be a multiple of keyValueHeads"))]
pub struct Architecture {
    /// Layer structure.
    #[serde(default)]
    pub family: ArchitectureFamily,
    /// Width of the residual stream.
    #[schemars(range(min = 8, max = 65536))]
    pub hidden_size: u32,
    /// Width of the feed-forward layers.
    #[schemars(range(min = 8, max = 262_144))]
    pub intermediate_size: u32,
    /// Decoder layers.
    #[schemars(range(min = 1, max = 512))]
    pub layers: u32,
    /// Query heads.
    #[schemars(range(min = 1, max = 1024))]
    pub attention_heads: u32,
    /// Key and value heads.
    #[schemars(range(min = 1, max = 1024))]
    pub key_value_heads: u32,
    /// Width of a head; hiddenSize / attentionHeads if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 1024))]
    pub head_dimension: Option<u32>,
    /// Tokens in the vocabulary.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub vocabulary_size: u32,
    /// Longest context.
    #[serde(default = "default_context")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub context_length: u32,
    /// Output head shares the embedding.
    #[serde(default)]
    pub tied_embeddings: bool,
}

const fn default_context() -> u32 {
    4096
}

/// A claim and the path of the model in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// Name of the claim in the experiment's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new(NAME.rule()).message(NAME.message))]
    pub claim_name: String,
    /// Path of the model inside the volume.
    #[serde(default)]
    pub path: String,
}

/// An image whose file system holds the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Image reference, best with a digest.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// Path of the model inside the image.
    #[serde(default)]
    pub path: String,
}

/// Exactly one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// The engine in the runner itself, on candle.
    Candle(CandleEngine),
}

impl Engine {
    /// Name in labels of metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Candle(_) => "candle",
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::Candle(CandleEngine::default())
    }
}

/// Settings of the candle engine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.implementation) || self.implementation != 'Transformers' || (has(self.batching.static) && self.batching.static.batchSize == 1)")
    .message("candle-transformers runs one sequence at a time: batching must be static with batchSize 1"))]
pub struct CandleEngine {
    /// Which code computes the model. `Auto` takes lem's own kernels where they know the model, else candle-transformers.
    #[serde(default)]
    pub implementation: Implementation,
    /// Where the model runs. `Auto` takes a GPU if the runner is built for one and one is there. lem's own decoder runs on
    /// a GPU only where `Cuda` and the implementation `Lem` ask for it.
    #[serde(default)]
    pub device: Device,
    /// Precision of the weights of safetensors and synthetic models; GGUF files carry their own.
    #[serde(default)]
    pub dtype: DType,
    /// How sequences share a step.
    #[serde(default)]
    pub batching: Batching,
}

/// What computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Implementation {
    /// lem's own decoder where it knows the model and the device, else candle-transformers. The result names which.
    #[default]
    Auto,
    /// lem's own decoder; an error where it does not know the model or the device.
    Lem,
    /// The models of candle-transformers, one sequence at a time.
    Transformers,
}

/// The device of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Device {
    /// A GPU if there is one that this build can use, else the CPU.
    #[default]
    Auto,
    /// A CUDA GPU; an error without one.
    Cuda,
    /// The CPU.
    Cpu,
}

/// Precision of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DType {
    /// What the files have; for synthetic models bf16 on a GPU, f32 on a CPU. candle-transformers takes f32 on a CPU.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit blocks of GGUF, quantised at load; synthetic models only.
    Q8_0,
    /// 4-bit blocks of GGUF, quantised at load; synthetic models only.
    Q4_0,
}

/// Exactly one way of batching.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Batching {
    /// Batches that begin and end together.
    Static(StaticBatching),
    /// Sequences join and leave at every step.
    Continuous(ContinuousBatching),
}

impl Default for Batching {
    fn default() -> Self {
        Self::Static(StaticBatching::default())
    }
}

/// Batches that begin and end together: all prompts are processed, then all rows decode until the last one has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticBatching {
    /// Sequences per batch.
    #[schemars(range(min = 1, max = 256))]
    pub batch_size: u32,
}

impl Default for StaticBatching {
    fn default() -> Self {
        Self { batch_size: 1 }
    }
}

/// Sequences join and leave at every step; prompts are processed in chunks beside the sequences that decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContinuousBatching {
    /// Sequences in the engine at once.
    #[serde(default = "default_sequences")]
    #[schemars(range(min = 1, max = 256))]
    pub max_sequences: u32,
    /// Tokens of one step, decoded ones and parts of prompts together.
    #[serde(default = "default_token_budget")]
    #[schemars(range(min = 16, max = 16384))]
    pub token_budget: u32,
    /// Blocks of 32 positions in the key-value cache; as many as all sequences need at their longest if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub kv_cache_blocks: Option<u32>,
    /// Whether a prompt's beginning that is still in the cache is used again.
    #[serde(default)]
    pub prefix_caching: PrefixCaching,
}

impl Default for ContinuousBatching {
    fn default() -> Self {
        Self {
            max_sequences: default_sequences(),
            token_budget: default_token_budget(),
            kv_cache_blocks: None,
            prefix_caching: PrefixCaching::default(),
        }
    }
}

const fn default_sequences() -> u32 {
    8
}

const fn default_token_budget() -> u32 {
    512
}

/// Whether the beginning of a prompt that another one had is taken from the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PrefixCaching {
    /// Every prompt is computed.
    #[default]
    Disabled,
    /// Prompts share what the same window has computed; each window begins with nothing to share.
    PerWindow,
    /// Prompts share also what the warm-up and the windows before have computed.
    Warm,
}
