//! candle, as its users run it: `quantized_llama` for files of blocks, `llama` for files of floats.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use candle_transformers::models::quantized_llama::ModelWeights;
use lem_engine::architecture::{Architecture, expected_tensors, gguf_name};

use super::{Contender, Load, Weights};

/// A model of candle-transformers.
enum Model {
    /// Starts from a clone of the empty model, which shares the weights: its cache cannot be cleared.
    Quantised {
        empty: ModelWeights,
        current: ModelWeights,
    },
    Floats {
        model: Llama,
        empty: Cache,
        current: Cache,
    },
}

struct CandleContender {
    model: Model,
    position: usize,
    /// `[rows, vocabulary]`.
    logits: Option<Tensor>,
    details: String,
}

/// Loads the model that fits the type of most matrices.
pub(super) fn load(load: &Load<'_>) -> Result<Box<dyn Contender>> {
    let failed = || format!("candle cannot load {}", load.path.display());
    let file = File::open(load.path).with_context(failed)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let contents = Content::read(&mut reader).with_context(failed)?;
    let matrices = contents.tensor_infos.get("blk.0.attn_q.weight");
    let matrices = matrices.map(|tensor| tensor.ggml_dtype);
    let (model, name) = if let Some(GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16) = matrices {
        (load_floats(load, &contents, &mut reader)?, "llama")
    } else {
        let empty = ModelWeights::from_gguf(contents, &mut reader, &Device::Cpu).with_context(failed)?;
        let current = empty.clone();
        (Model::Quantised { empty, current }, "quantized_llama")
    };
    Ok(Box::new(CandleContender {
        model,
        position: 0,
        logits: None,
        details: format!("{name}, {} threads", candle_core::utils::get_num_threads()),
    }))
}

/// Loads all tensors as 32-bit floats, as lem's runner does on the CPU: candle computes brain floats too, but a decode
/// step takes several times as long with them.
fn load_floats(load: &Load<'_>, contents: &Content, reader: &mut BufReader<File>) -> Result<Model> {
    let dtype = DType::F32;
    let architecture = Weights::open(load.path)?.architecture;
    let mut tensors = HashMap::new();
    for expected in expected_tensors(&architecture) {
        let name = gguf_name(&architecture, &expected.name);
        let tensor = contents
            .tensor(reader, &name, &Device::Cpu)
            .and_then(|tensor| floats(&architecture, &expected.name, &tensor))
            .with_context(|| format!("tensor {name} cannot be loaded"))?;
        tensors.insert(expected.name, tensor);
    }
    let configuration = Config {
        hidden_size: architecture.hidden_size,
        intermediate_size: architecture.intermediate_size,
        vocab_size: architecture.vocabulary_size,
        num_hidden_layers: architecture.layers,
        num_attention_heads: architecture.attention_heads,
        num_key_value_heads: architecture.key_value_heads,
        use_flash_attn: false,
        rms_norm_eps: architecture.norm_epsilon,
        rope_theta: architecture.rope_theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: architecture.context_length.max(load.positions),
        tie_word_embeddings: architecture.tied_embeddings,
    };
    let empty = Cache::new(true, dtype, &configuration, &Device::Cpu)?;
    let model = Llama::load(VarBuilder::from_tensors(tensors, dtype, &Device::Cpu), &configuration)?;
    let current = empty.clone();
    Ok(Model::Floats { model, empty, current })
}

/// The values of a tensor in the order of safetensors files: GGUF files of the family have the rows of queries and keys
/// of each head as pairs of neighbours, where these have two halves.
fn floats(architecture: &Architecture, name: &str, tensor: &QTensor) -> candle_core::Result<Tensor> {
    let values = tensor.dequantize(&Device::Cpu)?;
    if !name.contains("q_proj") && !name.contains("k_proj") {
        return Ok(values);
    }
    let (rows, columns) = values.dims2()?;
    let half = architecture.head_dimension / 2;
    values
        .reshape((rows / (2 * half), half, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

impl CandleContender {
    fn forward(&mut self, tokens: &[u32], rows: usize) -> Result<()> {
        let position = self.position;
        let mut compute = || {
            let input = Tensor::new(tokens, &Device::Cpu)?.reshape((rows, tokens.len() / rows))?;
            let logits = match &mut self.model {
                Model::Quantised { current, .. } => current.forward(&input, position),
                Model::Floats { model, current, .. } => model.forward(&input, position, current),
            }?;
            let vocabulary = logits.dim(D::Minus1)?;
            logits.reshape((rows, vocabulary))
        };
        let logits: candle_core::Result<Tensor> = compute();
        let per_row = tokens.len() / rows;
        self.logits = Some(logits.with_context(|| format!("candle cannot compute {rows} x {per_row} tokens"))?);
        self.position += per_row;
        Ok(())
    }
}

impl Contender for CandleContender {
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<()> {
        match &mut self.model {
            Model::Quantised { empty, current } => *current = empty.clone(),
            Model::Floats { empty, current, .. } => *current = empty.clone(),
        }
        self.position = 0;
        self.forward(&prompts.concat(), prompts.len())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<()> {
        self.forward(tokens, tokens.len())
    }

    fn logits(&mut self, row: usize) -> Result<Vec<f32>> {
        let logits = self.logits.as_ref().context("a prefill has to come first")?;
        Ok(logits.get(row)?.to_vec1()?)
    }

    fn details(&self) -> String {
        self.details.clone()
    }
}
