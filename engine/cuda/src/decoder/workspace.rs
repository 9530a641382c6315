//! The buffers of a step on the device, taken once.

use lem_engine::architecture::Architecture;
use lem_engine::decoder::DecoderConfiguration;

use crate::backend::{Backend, Memory};
use crate::graph::MOST_ROWS;
use crate::kernels::{ActivationAddresses, Address, Specialisation};
use crate::step::Step;
use crate::weights::{DeviceMatrix, DeviceWeights};

/// Rows of one token whose attention is computed at a time.
pub(super) const DECODE_ROWS: usize = 64;
/// Halves into which a quantised matrix is turned at a time.
const PANEL_ELEMENTS: usize = 32 << 20;

/// Where the buffers are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    /// The residual stream, `[tokens][hidden]` floats.
    pub(super) residual: Address,
    /// What is added to it.
    pub(super) branch: Address,
    /// Queries, keys and values, `[tokens][query width + 2 * key-value width]` floats.
    pub(super) projected: Address,
    /// Gate and up, `[tokens][2 * inter]` floats.
    pub(super) gate_up: Address,
    /// Inputs of the products, in each type that any of them reads.
    pub(super) activations: ActivationAddresses,
    /// Inputs of the down projection.
    pub(super) gated: ActivationAddresses,
    /// Partial results of the attention.
    pub(super) partials: Address,
    /// A quantised matrix as halves, some rows at a time; and how many elements.
    pub(super) panel: Address,
    pub(super) panel_elements: usize,
    /// `[sampled rows][vocabulary]` floats.
    pub(super) logits: Address,
}

/// The memory of the buffers.
#[derive(Debug)]
pub(super) struct Workspace<M> {
    buffers: M,
    addresses: Addresses,
    step: M,
    sampler: M,
    tokens: usize,
    sampled_rows: usize,
}

/// Takes parts of a memory that is allocated when all are known.
#[derive(Default)]
struct Parts {
    bytes: u64,
}

impl Parts {
    fn take(&mut self, bytes: usize) -> u64 {
        let at = self.bytes;
        self.bytes = (at + bytes as u64).next_multiple_of(256);
        at
    }
}

impl<M: Memory> Workspace<M> {
    pub(super) fn new<B: Backend<Memory = M>>(
        backend: &B,
        architecture: &Architecture,
        specialisation: Specialisation,
        weights: &DeviceWeights<M>,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, B::Error> {
        let (tokens, sampled_rows) = (configuration.token_budget, configuration.sampled_rows);
        let hidden = architecture.hidden_size;
        let projected = architecture.query_width() + 2 * architecture.key_value_width();
        let widest = hidden.max(architecture.query_width());
        let matrices: Vec<DeviceMatrix> = weights
            .layers
            .iter()
            .flat_map(|layer| [&layer.projection, &layer.output, &layer.gate_up, &layer.down])
            .chain([&weights.head])
            .flat_map(|joined| joined.0.iter().copied())
            .collect();
        // Rows of logits are activations, too.
        let rows = tokens.max(sampled_rows);
        let panel_elements = matrices
            .iter()
            .filter(|matrix| matrix.element_type.is_quantised())
            .map(|matrix| (matrix.rows * matrix.columns).min(PANEL_ELEMENTS.max(matrix.columns)))
            .max()
            .unwrap_or_default();
        let mut parts = Parts::default();
        let mut floats = |count: usize| parts.take(4 * count);
        let offsets = Addresses {
            residual: floats(tokens * hidden),
            branch: floats(tokens * hidden),
            projected: floats(tokens * projected),
            gate_up: floats(tokens * 2 * architecture.intermediate_size),
            partials: floats(DECODE_ROWS.min(tokens) * architecture.attention_heads * specialisation.partial_floats()),
            logits: floats(sampled_rows * architecture.vocabulary_size),
            panel: floats(panel_elements.div_ceil(2)),
            panel_elements,
            // Which types a step needs depends on its rows: quantised matrices take either.
            activations: activations(&mut parts, rows * widest, &matrices),
            gated: activations(&mut parts, tokens * architecture.intermediate_size, &matrices),
        };
        let buffers = backend.allocate(parts.bytes as usize)?;
        Ok(Self {
            addresses: offsets.moved(buffers.address()),
            buffers,
            // Recorded steps fit, or their address would change and they would be recorded anew.
            step: backend.allocate(Step::decoding_bytes(
                tokens.min(MOST_ROWS),
                configuration.context_length,
            ))?,
            sampler: backend.allocate(256)?,
            tokens,
            sampled_rows,
        })
    }

    /// Gives all memory back but for next to nothing; no step fits after it.
    pub(super) fn give_back<B: Backend<Memory = M>>(&mut self, backend: &B) -> Result<(), B::Error> {
        for memory in [&mut self.buffers, &mut self.step, &mut self.sampler] {
            *memory = backend.allocate(0)?;
        }
        Ok(())
    }

    /// Whether so many decoding rows fit.
    pub(super) fn fits(&self, rows: usize) -> bool {
        rows <= self.tokens && rows <= self.sampled_rows
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(super) fn logits(&self) -> Address {
        self.addresses.logits
    }

    pub(super) fn step(&self) -> Address {
        self.step.address()
    }

    pub(super) fn sampler(&self) -> Address {
        self.sampler.address()
    }

    /// Makes room for a step's upload; tells whether its address has changed.
    pub(super) fn reserve_step<B: Backend<Memory = M>>(&mut self, backend: &B, bytes: usize) -> Result<bool, B::Error> {
        reserve(backend, &mut self.step, bytes)
    }

    /// Makes room for the sampler; tells whether its address has changed.
    pub(super) fn reserve_sampler<B: Backend<Memory = M>>(
        &mut self,
        backend: &B,
        bytes: usize,
    ) -> Result<bool, B::Error> {
        reserve(backend, &mut self.sampler, bytes)
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffers.bytes() + self.step.bytes() + self.sampler.bytes()
    }
}

fn reserve<B: Backend>(backend: &B, memory: &mut B::Memory, bytes: usize) -> Result<bool, B::Error> {
    let grows = bytes > memory.bytes();
    if grows {
        *memory = backend.allocate(bytes.next_power_of_two())?;
    }
    Ok(grows)
}

/// Room for activations in the types that the matrices read. No part has offset zero, which would mean nowhere.
fn activations(parts: &mut Parts, elements: usize, matrices: &[DeviceMatrix]) -> ActivationAddresses {
    use lem_engine::tensor::ElementType::{Bf16, F16, F32};
    let any = |wanted| matrices.iter().any(|matrix| matrix.element_type == wanted);
    let quantised = matrices.iter().any(|matrix| matrix.element_type.is_quantised());
    let mut room = |wanted: bool, bytes: usize| if wanted { parts.take(bytes * elements) } else { 0 };
    ActivationAddresses {
        single: room(quantised || any(F32), 4),
        half: room(quantised || any(F16), 2),
        brain: room(any(Bf16), 2),
    }
}

impl Addresses {
    fn moved(self, base: Address) -> Self {
        let present = |offset: Address| if offset == 0 { 0 } else { base + offset };
        let all = |activations: ActivationAddresses| ActivationAddresses {
            single: present(activations.single),
            half: present(activations.half),
            brain: present(activations.brain),
        };
        Self {
            residual: base + self.residual,
            branch: base + self.branch,
            projected: base + self.projected,
            gate_up: base + self.gate_up,
            activations: all(self.activations),
            gated: all(self.gated),
            partials: base + self.partials,
            panel: base + self.panel,
            panel_elements: self.panel_elements,
            logits: base + self.logits,
        }
    }
}
