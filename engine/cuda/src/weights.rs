//! A model's tensors in the memory of a device. Matrices stay in the types of the source.

use std::cell::RefCell;

use lem_engine::architecture::Architecture;
use lem_engine::decoder::{
    DecoderConfiguration, DecoderError, Layer, StoredRows, WeightMatrix, Weights as HostWeights, dominant_type,
};
use lem_engine::tensor::{ElementType, TensorSource};

use crate::backend::{Backend, Memory};
use crate::decoder::ForwardError;
use crate::kernels::Address;
use crate::vectors::{Rope, Vectors, padded_bytes};

/// Matrices begin at multiples of this, unless they continue one of their kind.
const ALIGNMENT: u64 = 256;
/// A matrix that continues another begins at a multiple of this, as vector loads ask for.
const CONTINUED: u64 = 16;
/// Columns come in chunks of this.
pub(crate) const CHUNK: usize = 8;

/// A matrix, or consecutive ones of the same type and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceMatrix {
    pub(crate) element_type: ElementType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) address: Address,
}

impl DeviceMatrix {
    pub(crate) const fn row_bytes(&self) -> usize {
        self.element_type.bytes(self.columns)
    }
}

impl WeightMatrix for DeviceMatrix {
    fn elements(&self) -> usize {
        self.rows * self.columns
    }

    fn stored_bytes(&self) -> usize {
        self.rows * self.row_bytes()
    }
}

/// Matrices whose outputs lie side by side, as few as possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined(pub(crate) Vec<DeviceMatrix>);

impl Joined {
    pub(crate) fn new(matrices: &[DeviceMatrix]) -> Self {
        let mut joined: Vec<DeviceMatrix> = Vec::new();
        for matrix in matrices {
            match joined.last_mut() {
                Some(last)
                    if (last.element_type, last.columns) == (matrix.element_type, matrix.columns)
                        && last.address + last.stored_bytes() as u64 == matrix.address =>
                {
                    last.rows += matrix.rows;
                }
                _ => joined.push(*matrix),
            }
        }
        Self(joined)
    }
}

/// One layer; addresses are zero where there is nothing.
#[derive(Debug)]
pub(crate) struct DeviceLayer {
    pub(crate) input_norm: Address,
    /// Queries, keys and values.
    pub(crate) projection: Joined,
    pub(crate) projection_bias: Address,
    pub(crate) query_norm: Address,
    pub(crate) key_norm: Address,
    pub(crate) output: Joined,
    pub(crate) output_bias: Address,
    pub(crate) post_attention_norm: Address,
    pub(crate) feed_forward_norm: Address,
    pub(crate) gate_up: Joined,
    pub(crate) down: Joined,
    pub(crate) post_feed_forward_norm: Address,
    /// Positions that a query sees; 0 for all.
    pub(crate) window: u32,
    /// Which of [`DeviceWeights::rope`]; none where the layer has no positions.
    pub(crate) rope: Option<usize>,
}

/// All weights.
#[derive(Debug)]
pub(crate) struct DeviceWeights<M> {
    pub(crate) embedding: DeviceMatrix,
    pub(crate) layers: Vec<DeviceLayer>,
    pub(crate) norm: Address,
    pub(crate) head: Joined,
    pub(crate) rope: Rope<M>,
    pub(crate) dominant_type: ElementType,
    /// Matrices, then vectors.
    pub(crate) memory: [M; 2],
}

/// Where the next matrix goes.
#[derive(Debug, Clone, Copy, Default)]
struct Placement {
    end: u64,
    last: Option<(ElementType, usize)>,
}

impl Placement {
    fn place(&mut self, element_type: ElementType, rows: usize, columns: usize) -> u64 {
        let kind = (element_type, columns);
        let begin = if self.last == Some(kind) && self.end.is_multiple_of(CONTINUED) {
            self.end
        } else {
            self.end.next_multiple_of(ALIGNMENT)
        };
        self.end = begin + (rows * element_type.bytes(columns)) as u64;
        self.last = Some(kind);
        begin
    }
}

/// Weights on a device, and their description on the host.
type Loaded<M> = (DeviceWeights<M>, HostWeights<DeviceMatrix>);

/// Brings a model to a device; also says what a step costs.
pub(crate) fn load<B: Backend>(
    backend: &mut B,
    architecture: &Architecture,
    source: &dyn TensorSource,
    configuration: &DecoderConfiguration,
) -> Result<Loaded<B::Memory>, ForwardError<B::Error>> {
    // Once for the extents alone, so that there is one allocation, and once for the bytes.
    let extent = RefCell::new(Placement::default());
    HostWeights::load::<ForwardError<B::Error>>(
        architecture,
        source,
        configuration.conventions,
        configuration.weight_type,
        &|element_type, rows, columns, _| {
            extent.borrow_mut().place(element_type, rows, columns);
            if columns.is_multiple_of(CHUNK) {
                Ok(())
            } else {
                Err(ForwardError::Columns { found: columns })
            }
        },
    )?;
    let failed = |source| ForwardError::Device { source };
    let matrices = backend.allocate(extent.borrow().end as usize).map_err(failed)?;
    let mut host = load_matrices(backend, matrices.address(), architecture, source, configuration)?;
    let vectors = vector_bytes(&host);
    let memory = backend.allocate(vectors).map_err(failed)?;
    let mut vectors = Vectors::new(memory.address(), vectors);
    let layers = host
        .layers
        .iter()
        .map(|layer| device_layer(architecture, layer, &mut vectors))
        .collect();
    let norm = vectors.put(&host.norm);
    vectors.upload(backend).map_err(failed)?;
    let weights = DeviceWeights {
        embedding: host.embedding,
        head: Joined::new(&[*host.head()]),
        layers,
        norm,
        rope: Rope::new(backend, std::mem::take(&mut host.rope), configuration.context_length).map_err(failed)?,
        dominant_type: dominant_type(host.matrices().map(|matrix| (matrix.element_type, matrix.elements()))),
        memory: [matrices, memory],
    };
    Ok((weights, host))
}

fn load_matrices<B: Backend>(
    backend: &mut B,
    base: Address,
    architecture: &Architecture,
    source: &dyn TensorSource,
    configuration: &DecoderConfiguration,
) -> Result<HostWeights<DeviceMatrix>, ForwardError<B::Error>> {
    let state = RefCell::new((backend, Placement::default(), Vec::new()));
    let pack = |element_type: ElementType, rows: usize, columns: usize, row: &StoredRows<'_, '_>| {
        let (backend, placement, bytes) = &mut *state.borrow_mut();
        let address = base + placement.place(element_type, rows, columns);
        bytes.clear();
        (0..rows).for_each(|index| bytes.extend_from_slice(&row(index)));
        backend
            .upload(address, bytes)
            .map_err(|source| ForwardError::Device { source })?;
        Ok(DeviceMatrix {
            element_type,
            rows,
            columns,
            address,
        })
    };
    HostWeights::load(
        architecture,
        source,
        configuration.conventions,
        configuration.weight_type,
        &pack,
    )
}

/// Bytes that all vectors need at most.
fn vector_bytes(host: &HostWeights<DeviceMatrix>) -> usize {
    let some = |values: &Option<Vec<f32>>| values.as_ref().map_or(0, |values| padded_bytes(values));
    let of_layer = |layer: &Layer<DeviceMatrix>| {
        let present = [
            &layer.input_norm,
            &layer.query_bias,
            &layer.key_bias,
            &layer.value_bias,
            &layer.output_bias,
        ];
        let present = present.into_iter().chain([&layer.feed_forward_norm]);
        let optional = [
            &layer.query_norm,
            &layer.key_norm,
            &layer.post_attention_norm,
            &layer.post_feed_forward_norm,
        ];
        // The merged bias may stand for parts that have none.
        let bias = 4 * (layer.query.rows + layer.key.rows + layer.value.rows);
        present.map(|values| padded_bytes(values)).sum::<usize>() + optional.into_iter().map(some).sum::<usize>() + bias
    };
    host.layers.iter().map(of_layer).sum::<usize>() + padded_bytes(&host.norm)
}

fn device_layer(architecture: &Architecture, layer: &Layer<DeviceMatrix>, vectors: &mut Vectors) -> DeviceLayer {
    let biases = [&layer.query_bias, &layer.key_bias, &layer.value_bias];
    let mut bias = Vec::new();
    if biases.iter().any(|bias| !bias.is_empty()) {
        let widths = [
            architecture.query_width(),
            architecture.key_value_width(),
            architecture.key_value_width(),
        ];
        for (part, width) in biases.into_iter().zip(widths) {
            bias.extend((0..width).map(|index| part.get(index).copied().unwrap_or_default()));
        }
    }
    DeviceLayer {
        input_norm: vectors.put(&layer.input_norm),
        projection: Joined::new(&[layer.query, layer.key, layer.value]),
        projection_bias: vectors.put(&bias),
        query_norm: vectors.put_some(layer.query_norm.as_ref()),
        key_norm: vectors.put_some(layer.key_norm.as_ref()),
        output: Joined::new(&[layer.output]),
        output_bias: vectors.put(&layer.output_bias),
        post_attention_norm: vectors.put_some(layer.post_attention_norm.as_ref()),
        feed_forward_norm: vectors.put(&layer.feed_forward_norm),
        gate_up: Joined::new(&[layer.gate, layer.up]),
        down: Joined::new(&[layer.down]),
        post_feed_forward_norm: vectors.put_some(layer.post_feed_forward_norm.as_ref()),
        window: layer.window.unwrap_or_default() as u32,
        rope: layer.rope,
    }
}

/// The heads' widths must be whole tiles of the tensor cores.
pub(crate) fn check_heads<E: std::error::Error + 'static>(architecture: &Architecture) -> Result<(), ForwardError<E>> {
    let found = architecture.head_dimension;
    let limit = crate::kernels::HEAD_LIMIT;
    if found.is_multiple_of(16) && found <= limit {
        return Ok(());
    }
    Err(DecoderError::HeadDimension { found, limit }.into())
}
