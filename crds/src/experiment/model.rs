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

impl Default for Engine {
    fn default() -> Self {
        Self::Candle(CandleEngine::default())
    }
}

/// Settings of the candle engine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandleEngine {
    /// Where the model runs. `Auto` takes a GPU if the runner is built for one and one is there.
    #[serde(default)]
    pub device: Device,
    /// Precision of the weights of safetensors and synthetic models; GGUF files carry their own.
    #[serde(default)]
    pub dtype: DType,
    /// How sequences share a step.
    #[serde(default)]
    pub batching: Batching,
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
    /// bf16 on a GPU, f32 on a CPU (candle has no fast bf16 product there).
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
    /// A fixed number of sequences per step.
    Static(StaticBatching),
}

impl Default for Batching {
    fn default() -> Self {
        Self::Static(StaticBatching::default())
    }
}

/// A fixed number of sequences per step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.batchSize == 1")
    .message("this version's engine runs one sequence at a time: batchSize must be 1"))]
pub struct StaticBatching {
    /// Sequences per step.
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: u32,
}

impl Default for StaticBatching {
    fn default() -> Self {
        Self { batch_size: 1 }
    }
}
