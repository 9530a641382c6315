//! Which tensors a model of an architecture consists of.
//!
//! One list serves three purposes: safetensors files are checked against it before candle loads them (candle's llama
//! panics on a missing tensor), synthetic weights are generated from it, and GGUF files are checked under their names.

use super::{Architecture, Family};

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token embedding, `[vocabulary, hidden]`.
    Embedding,
    /// Output head, `[vocabulary, hidden]`.
    Head,
    /// Weight matrix of a layer, `[output features, input features]`.
    Matrix,
    /// Bias, `[output features]`.
    Bias,
    /// Scale of a normalisation.
    Norm,
}

/// One tensor that a model must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Name in safetensors files.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Purpose.
    pub role: Role,
}

/// The tensors of a model, in no particular order.
pub fn expected_tensors(architecture: &Architecture) -> Vec<ExpectedTensor> {
    let (hidden, vocabulary) = (architecture.hidden_size, architecture.vocabulary_size);
    let mut tensors = Inventory {
        prefix: "model.".to_owned(),
        tensors: Vec::new(),
    };
    tensors.add("embed_tokens.weight", &[vocabulary, hidden], Role::Embedding);
    tensors.add("norm.weight", &[hidden], Role::Norm);
    for layer in 0..architecture.layers {
        tensors.prefix = format!("model.layers.{layer}.");
        add_layer(&mut tensors, architecture);
    }
    tensors.prefix.clear();
    if !architecture.tied_embeddings {
        tensors.add("lm_head.weight", &[vocabulary, hidden], Role::Head);
    }
    tensors.tensors
}

fn add_layer(tensors: &mut Inventory, architecture: &Architecture) {
    let (hidden, inter) = (architecture.hidden_size, architecture.intermediate_size);
    let (queries, keys) = (architecture.query_width(), architecture.key_value_width());
    let family = architecture.family;
    tensors.add("input_layernorm.weight", &[hidden], Role::Norm);
    tensors.add("post_attention_layernorm.weight", &[hidden], Role::Norm);
    if matches!(family, Family::Gemma2 | Family::Gemma3) {
        tensors.add("pre_feedforward_layernorm.weight", &[hidden], Role::Norm);
        tensors.add("post_feedforward_layernorm.weight", &[hidden], Role::Norm);
    }
    if matches!(family, Family::Qwen3 | Family::Gemma3) {
        tensors.add("self_attn.q_norm.weight", &[architecture.head_dimension], Role::Norm);
        tensors.add("self_attn.k_norm.weight", &[architecture.head_dimension], Role::Norm);
    }
    tensors.add("self_attn.o_proj.weight", &[hidden, queries], Role::Matrix);
    tensors.add("mlp.down_proj.weight", &[hidden, inter], Role::Matrix);
    if family == Family::Phi3 {
        tensors.add("self_attn.qkv_proj.weight", &[queries + 2 * keys, hidden], Role::Matrix);
        tensors.add("mlp.gate_up_proj.weight", &[2 * inter, hidden], Role::Matrix);
        return;
    }
    tensors.add("mlp.gate_proj.weight", &[inter, hidden], Role::Matrix);
    tensors.add("mlp.up_proj.weight", &[inter, hidden], Role::Matrix);
    for (projection, width) in [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)] {
        tensors.add(
            &format!("self_attn.{projection}.weight"),
            &[width, hidden],
            Role::Matrix,
        );
        if has_query_bias(architecture) {
            tensors.add(&format!("self_attn.{projection}.bias"), &[width], Role::Bias);
        }
    }
    if has_query_bias(architecture) && family != Family::Qwen2 {
        tensors.add("self_attn.o_proj.bias", &[hidden], Role::Bias);
    }
}

fn has_query_bias(architecture: &Architecture) -> bool {
    match architecture.family {
        Family::Qwen2 => true,
        Family::Qwen3 | Family::SmolLm3 | Family::Gemma | Family::Gemma2 | Family::Gemma3 => {
            architecture.attention_bias
        }
        Family::Llama | Family::Mistral | Family::Phi3 => false,
    }
}

struct Inventory {
    prefix: String,
    tensors: Vec<ExpectedTensor>,
}

impl Inventory {
    fn add(&mut self, name: &str, shape: &[usize], role: Role) {
        self.tensors.push(ExpectedTensor {
            name: format!("{}{name}", self.prefix),
            shape: shape.to_vec(),
            role,
        });
    }
}

/// The name of a tensor in GGUF files.
pub fn gguf_name(architecture: &Architecture, name: &str) -> String {
    let feed_forward_norm = match architecture.family {
        Family::Gemma2 | Family::Gemma3 => "post_attention_norm",
        _ => "ffn_norm",
    };
    let replacements = [
        ("model.embed_tokens", "token_embd"),
        ("model.layers.", "blk."),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", feed_forward_norm),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    replacements
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
