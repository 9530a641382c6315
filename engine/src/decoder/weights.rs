//! The weights of a model in the form that the decoder computes with.

use super::DecoderError;
use super::rope::RopeTable;
use crate::architecture::{Architecture, Family};
use crate::packed::{PANEL, PackedMatrix};
use crate::tensor::{ElementType, StoredTensor, TensorSource, convert};

/// How a source orders and adjusts what safetensors files of Hugging Face have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceConventions {
    /// The rows of each query and key head are in pairs of the two halves, as GGUF files of the llama family have them.
    pub interleaved_heads: bool,
    /// One has been added to the scales of Gemma's normalisations, as in GGUF files.
    pub gemma_norms_plus_one: bool,
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) query: PackedMatrix,
    pub(crate) key: PackedMatrix,
    pub(crate) value: PackedMatrix,
    pub(crate) query_bias: Vec<f32>,
    pub(crate) key_bias: Vec<f32>,
    pub(crate) value_bias: Vec<f32>,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) output: PackedMatrix,
    pub(crate) output_bias: Vec<f32>,
    /// After the attention, before it is added (Gemma 2 and 3).
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: PackedMatrix,
    pub(crate) up: PackedMatrix,
    pub(crate) down: PackedMatrix,
    /// After the feed-forward network, before it is added (Gemma 2 and 3).
    pub(crate) post_feed_forward_norm: Option<Vec<f32>>,
    /// Positions that the attention sees, its own included.
    pub(crate) window: Option<usize>,
    /// Which of [`Weights::rope`]; none where the layer has no positions.
    pub(crate) rope: Option<usize>,
}

/// All layers and what is around them.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: PackedMatrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<f32>,
    /// The output head, unless it is the embedding.
    pub(crate) head: Option<PackedMatrix>,
    pub(crate) rope: Vec<RopeTable>,
}

impl Weights {
    pub(crate) fn load(
        architecture: &Architecture,
        source: &dyn TensorSource,
        conventions: SourceConventions,
        weight_type: Option<ElementType>,
        threads: usize,
    ) -> Result<Self, DecoderError> {
        let loader = Loader {
            architecture,
            source,
            conventions,
            weight_type,
            threads,
        };
        let (hidden, vocabulary) = (architecture.hidden_size, architecture.vocabulary_size);
        let dimension = architecture.head_dimension;
        let factors = source
            .tensor("rope_freqs.weight")
            .filter(|factors| factors.columns == dimension / 2);
        let factors = factors.map(|factors| {
            let mut values = vec![0.0; factors.columns];
            factors.dequantise_row(0, &mut values);
            values
        });
        let scaling = architecture.rope_scaling.as_ref();
        let theta = architecture.rope_theta;
        let mut rope = vec![RopeTable::new(dimension, theta, scaling, factors.as_deref())];
        if architecture.family == Family::Gemma3
            && let Some(gemma) = &architecture.gemma
        {
            rope.push(RopeTable::new(dimension, gemma.local_rope_theta, None, None));
        }
        Ok(Self {
            embedding: loader.matrix("model.embed_tokens.weight", vocabulary, hidden)?,
            layers: (0..architecture.layers)
                .map(|layer| loader.layer(layer))
                .collect::<Result<_, _>>()?,
            norm: loader.norm("model.norm.weight", hidden)?,
            head: if architecture.tied_embeddings {
                None
            } else {
                Some(loader.matrix("lm_head.weight", vocabulary, hidden)?)
            },
            rope,
        })
    }

    /// Makes the rotary tables reach so many positions.
    pub(crate) fn cover(&mut self, positions: usize) {
        for table in &mut self.rope {
            table.cover(positions);
        }
    }

    /// The output head.
    pub(crate) fn head(&self) -> &PackedMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The matrices of all layers.
    pub(crate) fn layer_matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layers.iter().flat_map(Layer::matrices)
    }

    /// Every matrix once.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        self.layer_matrices().chain([&self.embedding]).chain(&self.head)
    }
}

impl Layer {
    /// The layer's matrices.
    pub(crate) fn matrices(&self) -> [&PackedMatrix; 7] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

struct Loader<'source> {
    architecture: &'source Architecture,
    source: &'source dyn TensorSource,
    conventions: SourceConventions,
    weight_type: Option<ElementType>,
    threads: usize,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<Layer, DecoderError> {
        let architecture = self.architecture;
        let (hidden, inter) = (architecture.hidden_size, architecture.intermediate_size);
        let (queries, keys) = (architecture.query_width(), architecture.key_value_width());
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let post_norms = matches!(architecture.family, Family::Gemma2 | Family::Gemma3);
        let head_norms = matches!(architecture.family, Family::Qwen3 | Family::Gemma3);
        let feed_forward_norm = if post_norms {
            "pre_feedforward_layernorm"
        } else {
            "post_attention_layernorm"
        };
        let optional_norm = |present: bool, part: &str, width: usize| {
            present
                .then(|| self.norm(&name(&format!("{part}.weight")), width))
                .transpose()
        };
        let fused = architecture.family == Family::Phi3;
        let projection = |part: &str, rows: usize, fused_part: &str, first: usize, heads: bool| {
            if fused {
                self.rows(&name(&format!("{fused_part}.weight")), first, rows, hidden)
            } else {
                self.projection(&name(&format!("{part}.weight")), rows, hidden, heads)
            }
        };
        Ok(Layer {
            input_norm: self.norm(&name("input_layernorm.weight"), hidden)?,
            query: projection("self_attn.q_proj", queries, "self_attn.qkv_proj", 0, true)?,
            key: projection("self_attn.k_proj", keys, "self_attn.qkv_proj", queries, true)?,
            value: projection("self_attn.v_proj", keys, "self_attn.qkv_proj", queries + keys, false)?,
            query_bias: self.bias(&name("self_attn.q_proj.bias"), queries, true)?,
            key_bias: self.bias(&name("self_attn.k_proj.bias"), keys, true)?,
            value_bias: self.bias(&name("self_attn.v_proj.bias"), keys, false)?,
            query_norm: optional_norm(head_norms, "self_attn.q_norm", architecture.head_dimension)?,
            key_norm: optional_norm(head_norms, "self_attn.k_norm", architecture.head_dimension)?,
            output: self.matrix(&name("self_attn.o_proj.weight"), hidden, queries)?,
            output_bias: self.bias(&name("self_attn.o_proj.bias"), hidden, false)?,
            post_attention_norm: optional_norm(post_norms, "post_attention_layernorm", hidden)?,
            feed_forward_norm: self.norm(&name(&format!("{feed_forward_norm}.weight")), hidden)?,
            gate: projection("mlp.gate_proj", inter, "mlp.gate_up_proj", 0, false)?,
            up: projection("mlp.up_proj", inter, "mlp.gate_up_proj", inter, false)?,
            down: self.matrix(&name("mlp.down_proj.weight"), hidden, inter)?,
            post_feed_forward_norm: optional_norm(post_norms, "post_feedforward_layernorm", hidden)?,
            window: architecture.layer_window(index),
            rope: match architecture.family {
                // Every fourth layer has no positions.
                Family::SmolLm3 if (index + 1).is_multiple_of(4) => None,
                Family::Gemma3 if architecture.layer_window(index).is_some() => Some(1),
                _ => Some(0),
            },
        })
    }

    /// A tensor of this shape.
    fn tensor(&self, name: &str, rows: usize, columns: usize) -> Result<StoredTensor<'_>, DecoderError> {
        check(name, self.find(name)?, rows, columns)
    }

    fn find(&self, name: &str) -> Result<StoredTensor<'_>, DecoderError> {
        let missing = || DecoderError::Missing {
            tensor: name.to_owned(),
        };
        self.source.tensor(name).ok_or_else(missing)
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<PackedMatrix, DecoderError> {
        let tensor = self.tensor(name, rows, columns)?;
        let packed = self.pack(&tensor, rows, |row| row);
        self.source.release(name);
        Ok(packed)
    }

    /// A projection to heads, whose rows are brought into the order of safetensors files.
    fn projection(&self, name: &str, rows: usize, columns: usize, rotated: bool) -> Result<PackedMatrix, DecoderError> {
        let tensor = self.tensor(name, rows, columns)?;
        let packed = self.pack(&tensor, rows, self.order(rotated));
        self.source.release(name);
        Ok(packed)
    }

    /// Which row of the source is row `row` of a projection to heads.
    fn order(&self, rotated: bool) -> impl Fn(usize) -> usize + Sync + use<> {
        let dimension = self.architecture.head_dimension;
        let interleaved = rotated && self.conventions.interleaved_heads;
        move |row| {
            if !interleaved {
                return row;
            }
            let (head, within) = (row / dimension, row % dimension);
            let half = dimension / 2;
            head * dimension + within % half * 2 + within / half
        }
    }

    /// Some rows of a fused matrix.
    fn rows(&self, name: &str, first: usize, rows: usize, columns: usize) -> Result<PackedMatrix, DecoderError> {
        let tensor = self.find(name)?;
        let all = tensor.rows;
        let tensor = check(name, tensor, all.max(first + rows), columns)?;
        let packed = self.pack(&tensor, rows, |row| first + row);
        if first + rows == all {
            self.source.release(name);
        }
        Ok(packed)
    }

    /// Packs the rows `order(0)`, `order(1)`, … of a tensor, converted if that was asked for.
    fn pack(&self, tensor: &StoredTensor<'_>, rows: usize, order: impl Fn(usize) -> usize + Sync) -> PackedMatrix {
        let from = tensor.element_type;
        let to = self.weight_type.filter(|to| !to.is_quantised()).unwrap_or(from);
        PackedMatrix::pack(
            to,
            rows,
            tensor.columns,
            |row| convert(from, tensor.row(order(row)), to),
            self.threads,
        )
    }

    fn norm(&self, name: &str, width: usize) -> Result<Vec<f32>, DecoderError> {
        let gemma = self.architecture.family.is_gemma();
        let plus = if gemma && !self.conventions.gemma_norms_plus_one {
            1.0
        } else {
            0.0
        };
        let mut values = self.vector(name, width)?;
        values[..width].iter_mut().for_each(|value| *value += plus);
        Ok(values)
    }

    /// A bias; empty where the source has none.
    fn bias(&self, name: &str, width: usize, rotated: bool) -> Result<Vec<f32>, DecoderError> {
        if self.source.tensor(name).is_none() {
            return Ok(Vec::new());
        }
        let stored = self.vector(name, width)?;
        let order = self.order(rotated);
        let mut values = stored.clone();
        for (row, value) in values[..width].iter_mut().enumerate() {
            *value = stored[order(row)];
        }
        Ok(values)
    }

    /// A vector, padded with zeros to whole panels.
    fn vector(&self, name: &str, width: usize) -> Result<Vec<f32>, DecoderError> {
        let tensor = self.tensor(name, 1, width)?;
        let mut values = vec![0.0; width.next_multiple_of(PANEL)];
        tensor.dequantise_row(0, &mut values[..width]);
        Ok(values)
    }
}

/// Refuses a tensor that has another shape, or bytes that do not fit it.
fn check<'bytes>(
    name: &str,
    tensor: StoredTensor<'bytes>,
    rows: usize,
    columns: usize,
) -> Result<StoredTensor<'bytes>, DecoderError> {
    if (tensor.rows, tensor.columns) != (rows, columns) {
        return Err(DecoderError::Shape {
            tensor: name.to_owned(),
            expected: [rows, columns],
            found: [tensor.rows, tensor.columns],
        });
    }
    let block = tensor.element_type.block_elements();
    if !columns.is_multiple_of(block) || tensor.bytes.len() != tensor.row_bytes() * rows {
        return Err(DecoderError::Bytes {
            tensor: name.to_owned(),
            found: tensor.bytes.len(),
        });
    }
    Ok(tensor)
}

/// The type of most elements of the matrices.
pub(crate) fn dominant_type(weights: &Weights) -> ElementType {
    let mut elements = [0_u64; ElementType::ALL.len()];
    for matrix in weights.matrices() {
        elements[matrix.element_type as usize] += matrix.rows as u64 * matrix.columns as u64;
    }
    let largest = (0..elements.len())
        .max_by_key(|index| elements[*index])
        .unwrap_or_default();
    ElementType::ALL[largest]
}
