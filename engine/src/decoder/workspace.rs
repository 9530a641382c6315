//! The buffers of a step, taken once.

use super::attention::AttentionPlan;
use super::weights::Weights;
use super::{BatchLimits, DecoderConfiguration, LayerKinds, Logits};
use crate::architecture::Architecture;
use crate::batch::Batch;
use crate::kernels::InstructionSet;
use crate::kernels::activations::{Activations, Kinds};
use crate::packed::{PANEL, PackedMatrix};

/// Buffers; rows are tokens, strides are padded to whole panels, and what is padded stays zero.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) limits: BatchLimits,
    /// Elements from one row of `residual`, `branch` and `scratch` to the next.
    pub(super) hidden_stride: usize,
    /// The residual stream.
    pub(super) residual: Vec<f32>,
    /// Normalised rows, before they become activations.
    pub(super) scratch: Vec<f32>,
    /// What is added to the residual stream after a norm of its own; empty if no layer has one.
    pub(super) branch: Vec<f32>,
    pub(super) projected_stride: usize,
    /// Where keys and values begin in a row of `projected`.
    pub(super) key_value_offsets: (usize, usize),
    /// Queries, keys and values.
    pub(super) projected: Vec<f32>,
    /// Results of the attention, `query_width` to a row.
    pub(super) attended: Vec<f32>,
    /// Inputs of the products.
    pub(super) activations: Activations,
    /// Inputs of the down projection.
    pub(super) gated: Activations,
    pub(super) logit_stride: usize,
    pub(super) logits: Vec<f32>,
    /// How the step's attention is divided: for full layers, and for windowed ones.
    pub(super) plans: [AttentionPlan; 2],
}

impl Workspace {
    pub(super) fn new(
        architecture: &Architecture,
        weights: &Weights<PackedMatrix>,
        configuration: &DecoderConfiguration,
        set: InstructionSet,
        threads: usize,
    ) -> Self {
        let tokens = configuration.token_budget;
        let hidden_stride = architecture.hidden_size.next_multiple_of(PANEL);
        let keys = architecture.query_width().next_multiple_of(PANEL);
        let values = keys + architecture.key_value_width().next_multiple_of(PANEL);
        let projected_stride = values + architecture.key_value_width().next_multiple_of(PANEL);
        let logit_stride = architecture.vocabulary_size.next_multiple_of(PANEL);
        let (mut kinds, mut down) = (Kinds::of([weights.head().element_type]), Kinds::default());
        for layer in &weights.layers {
            let layer = LayerKinds::of(layer);
            kinds = kinds
                .union(layer.attention)
                .union(layer.output)
                .union(layer.feed_forward);
            down = down.union(layer.down);
        }
        let branch = weights.layers.iter().any(|layer| layer.post_attention_norm.is_some());
        let widest = architecture.hidden_size.max(architecture.query_width());
        let plan = || AttentionPlan::new(configuration, architecture, threads);
        Self {
            limits: BatchLimits::new(architecture, configuration),
            hidden_stride,
            residual: vec![0.0; tokens * hidden_stride],
            scratch: vec![0.0; tokens * hidden_stride],
            branch: vec![0.0; if branch { tokens * hidden_stride } else { 0 }],
            projected_stride,
            key_value_offsets: (keys, values),
            projected: vec![0.0; tokens * projected_stride],
            attended: vec![0.0; tokens * architecture.query_width()],
            activations: Activations::new(tokens, widest, kinds, set.tile()),
            gated: Activations::new(tokens, architecture.intermediate_size, down, set.tile()),
            logit_stride,
            logits: vec![0.0; configuration.sampled_rows * logit_stride],
            plans: [plan(), plan()],
        }
    }

    /// Divides the attention of a step.
    pub(super) fn plan(&mut self, batch: &Batch, architecture: &Architecture, threads: usize) {
        self.plans[0].divide(batch, architecture, None, threads);
        if let Some(window) = architecture.sliding_window {
            self.plans[1].divide(batch, architecture, Some(window.tokens), threads);
        }
    }

    /// The first `rows` rows of logits.
    pub(super) fn logits(&self, rows: usize, vocabulary: usize) -> Logits<'_> {
        Logits::new(&self.logits, self.logit_stride, vocabulary, rows)
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> usize {
        let floats = [
            &self.residual,
            &self.scratch,
            &self.branch,
            &self.projected,
            &self.attended,
            &self.logits,
        ];
        4 * floats.iter().map(|buffer| buffer.len()).sum::<usize>()
            + self.activations.bytes()
            + self.gated.bytes()
            + self.plans.iter().map(AttentionPlan::bytes).sum::<usize>()
    }
}
