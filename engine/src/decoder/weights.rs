//! The weights of a model in the form that a decoder computes with.

use std::borrow::Cow;

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

/// A weight matrix in the form that a device computes with.
pub trait WeightMatrix {
    /// Elements, padding left out.
    fn elements(&self) -> usize;
    /// Bytes that a product reads.
    fn stored_bytes(&self) -> usize;
}

impl WeightMatrix for PackedMatrix {
    fn elements(&self) -> usize {
        self.rows * self.columns
    }

    fn stored_bytes(&self) -> usize {
        self.bytes().len()
    }
}

/// Makes a matrix of elements of a type, rows and columns; the last argument gives the bytes of each row.
pub type Pack<'device, Matrix, Error> =
    dyn Fn(ElementType, usize, usize, &StoredRows<'_, '_>) -> Result<Matrix, Error> + 'device;

/// The bytes of a row of a matrix.
pub type StoredRows<'rows, 'bytes> = dyn Fn(usize) -> Cow<'bytes, [u8]> + Sync + 'rows;

/// One layer. Vectors are padded with zeros to whole panels, biases are empty where there are none.
#[derive(Debug)]
#[expect(missing_docs, reason = "the parts of a transformer layer, by their names")]
pub struct Layer<Matrix> {
    pub input_norm: Vec<f32>,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub query_bias: Vec<f32>,
    pub key_bias: Vec<f32>,
    pub value_bias: Vec<f32>,
    pub query_norm: Option<Vec<f32>>,
    pub key_norm: Option<Vec<f32>>,
    pub output: Matrix,
    pub output_bias: Vec<f32>,
    /// After the attention, before it is added (Gemma 2 and 3).
    pub post_attention_norm: Option<Vec<f32>>,
    pub feed_forward_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
    /// After the feed-forward network, before it is added (Gemma 2 and 3).
    pub post_feed_forward_norm: Option<Vec<f32>>,
    /// Positions that the attention sees, its own included.
    pub window: Option<usize>,
    /// Which of [`Weights::rope`]; none where the layer has no positions.
    pub rope: Option<usize>,
}

/// All layers and what is around them.
#[derive(Debug)]
pub struct Weights<Matrix> {
    /// A row for each token.
    pub embedding: Matrix,
    /// The layers in order.
    pub layers: Vec<Layer<Matrix>>,
    /// Scale of the last norm.
    pub norm: Vec<f32>,
    /// The output head, unless it is the embedding.
    pub head: Option<Matrix>,
    /// Angles of all positions, for each rotary base.
    pub rope: Vec<RopeTable>,
}

impl<Matrix> Weights<Matrix> {
    /// Loads all tensors, each matrix by `pack`: query, key and value one after the other, and gate and up.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, or `pack` fails.
    pub fn load<Error: From<DecoderError>>(
        architecture: &Architecture,
        source: &dyn TensorSource,
        conventions: SourceConventions,
        weight_type: Option<ElementType>,
        pack: &Pack<'_, Matrix, Error>,
    ) -> Result<Self, Error> {
        let loader = Loader {
            architecture,
            source,
            conventions,
            weight_type,
            pack,
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
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The matrices of all layers.
    pub fn layer_matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(Layer::matrices)
    }

    /// Every matrix once.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layer_matrices().chain([&self.embedding]).chain(&self.head)
    }
}

impl<Matrix> Layer<Matrix> {
    /// The layer's matrices.
    pub fn matrices(&self) -> [&Matrix; 7] {
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

struct Loader<'source, Matrix, Error> {
    architecture: &'source Architecture,
    source: &'source dyn TensorSource,
    conventions: SourceConventions,
    weight_type: Option<ElementType>,
    pack: &'source Pack<'source, Matrix, Error>,
}

impl<Matrix, Error: From<DecoderError>> Loader<'_, Matrix, Error> {
    fn layer(&self, index: usize) -> Result<Layer<Matrix>, Error> {
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

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        let tensor = self.tensor(name, rows, columns)?;
        let packed = self.pack(&tensor, rows, |row| row)?;
        self.source.release(name);
        Ok(packed)
    }

    /// A projection to heads, whose rows are brought into the order of safetensors files.
    fn projection(&self, name: &str, rows: usize, columns: usize, rotated: bool) -> Result<Matrix, Error> {
        let tensor = self.tensor(name, rows, columns)?;
        let packed = self.pack(&tensor, rows, self.order(rotated))?;
        self.source.release(name);
        Ok(packed)
    }

    /// Which row of the source is row `row` of a projection to heads.
    fn order(&self, rotated: bool) -> impl Fn(usize) -> usize + Sync + use<Matrix, Error> {
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
    fn rows(&self, name: &str, first: usize, rows: usize, columns: usize) -> Result<Matrix, Error> {
        let tensor = self.find(name)?;
        let all = tensor.rows;
        let tensor = check(name, tensor, all.max(first + rows), columns)?;
        let packed = self.pack(&tensor, rows, |row| first + row)?;
        if first + rows == all {
            self.source.release(name);
        }
        Ok(packed)
    }

    /// Packs the rows `order(0)`, `order(1)`, … of a tensor, converted if that was asked for.
    fn pack(
        &self,
        tensor: &StoredTensor<'_>,
        rows: usize,
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Matrix, Error> {
        let from = tensor.element_type;
        let to = self.weight_type.filter(|to| !to.is_quantised()).unwrap_or(from);
        (self.pack)(to, rows, tensor.columns, &|row| {
            convert(from, tensor.row(order(row)), to)
        })
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

/// The type of most elements of matrices, given the type and the elements of each.
pub fn dominant_type(matrices: impl Iterator<Item = (ElementType, usize)>) -> ElementType {
    let mut elements = [0_u64; ElementType::ALL.len()];
    for (element_type, count) in matrices {
        elements[element_type as usize] += count as u64;
    }
    let largest = (0..elements.len())
        .max_by_key(|index| elements[*index])
        .unwrap_or_default();
    ElementType::ALL[largest]
}
