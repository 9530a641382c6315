//! The launches of a step in their order.

use lem_engine::architecture::Architecture;
use lem_engine::tensor::ElementType;

use super::workspace::{Addresses, DECODE_ROWS};
use crate::backend::{Backend, Product};
use crate::kernels::{
    ActivationAddresses, AddAndNormalise, Address, AttendDecode, AttendPrefill, Cap, DecodeRow, Dequantise, Embed,
    FEW_ROWS, Gate, MergeSpans, MultiplyFew, Specialisation, WriteHeads,
};
use crate::step::{Step, StepAddresses};
use crate::weights::{DeviceLayer, DeviceMatrix, DeviceWeights, Joined};

/// What the launches of a step need.
pub(super) struct Launches<'step, B: Backend> {
    pub(super) backend: &'step mut B,
    pub(super) architecture: &'step Architecture,
    pub(super) specialisation: Specialisation,
    pub(super) weights: &'step DeviceWeights<B::Memory>,
    pub(super) buffers: Addresses,
    pub(super) inputs: StepAddresses,
    pub(super) step: &'step Step,
    pub(super) cache: Address,
    /// Bytes of a layer's part of the cache.
    pub(super) layer_bytes: u64,
}

/// What is added to the residual stream before the next norm.
#[derive(Debug, Clone, Copy, Default)]
struct Branch {
    present: bool,
    bias: Address,
    norm: Address,
}

/// Which of the activations the products of some matrices with so many rows read.
fn read_by(joined: &Joined, rows: usize, all: ActivationAddresses) -> ActivationAddresses {
    let mut read = ActivationAddresses::default();
    for matrix in &joined.0 {
        match matrix.element_type {
            ElementType::F32 => read.single = all.single,
            ElementType::F16 => read.half = all.half,
            ElementType::Bf16 => read.brain = all.brain,
            _ if rows <= FEW_ROWS => read.single = all.single,
            _ => read.half = all.half,
        }
    }
    read
}

impl<B: Backend> Launches<'_, B> {
    /// The whole step.
    pub(super) fn all(&mut self) -> Result<(), B::Error> {
        let weights = self.weights;
        self.embed()?;
        // A branch is added by the norm after it.
        let mut branch = Branch::default();
        for (index, layer) in weights.layers.iter().enumerate() {
            branch = self.attention_block(layer, index as u64, branch)?;
            branch = self.feed_forward_block(layer, branch)?;
        }
        self.head(branch)
    }

    fn embed(&mut self) -> Result<(), B::Error> {
        let (embedding, hidden) = (&self.weights.embedding, self.architecture.hidden_size);
        let gemma = self.architecture.family.is_gemma();
        let arguments = Embed {
            tokens: self.inputs.tokens,
            embedding: embedding.address,
            residual: self.buffers.residual,
            row_bytes: embedding.row_bytes() as u64,
            element_type: embedding.element_type as u32,
            hidden: hidden as u32,
            scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        };
        self.backend.launch([self.step.tokens as u32, 1, 1], 0, &arguments)
    }

    /// Adds a branch, and normalises all tokens for the matrices that read them.
    fn normalise(&mut self, branch: Branch, norm: Address, readers: &Joined) -> Result<(), B::Error> {
        let tokens = self.step.tokens;
        let output = read_by(readers, tokens, self.buffers.activations);
        let arguments = AddAndNormalise {
            norm,
            output,
            ..self.addition(branch)
        };
        self.backend.launch([tokens as u32, 1, 1], 0, &arguments)
    }

    fn addition(&self, branch: Branch) -> AddAndNormalise {
        AddAndNormalise {
            residual: self.buffers.residual,
            branch: if branch.present { self.buffers.branch } else { 0 },
            branch_bias: branch.bias,
            branch_norm: branch.norm,
            hidden: self.architecture.hidden_size as u32,
            epsilon: self.architecture.norm_epsilon as f32,
            ..AddAndNormalise::default()
        }
    }

    fn attention_block(&mut self, layer: &DeviceLayer, index: u64, branch: Branch) -> Result<Branch, B::Error> {
        self.normalise(branch, layer.input_norm, &layer.projection)?;
        let stride = self.architecture.query_width() + 2 * self.architecture.key_value_width();
        let (activations, tokens) = (self.buffers.activations, self.step.tokens);
        self.multiply(&layer.projection, activations, tokens, self.buffers.projected, stride)?;
        let cache = self.cache + index * self.layer_bytes;
        self.write_heads(layer, cache, stride)?;
        let output = read_by(&layer.output, tokens, activations);
        self.attend_decode(layer, cache, stride, output)?;
        self.attend_prefill(layer, cache, stride, output)?;
        let hidden = self.architecture.hidden_size;
        self.multiply(&layer.output, activations, tokens, self.buffers.branch, hidden)?;
        Ok(Branch {
            present: true,
            bias: layer.output_bias,
            norm: layer.post_attention_norm,
        })
    }

    fn write_heads(&mut self, layer: &DeviceLayer, cache: Address, stride: usize) -> Result<(), B::Error> {
        let architecture = self.architecture;
        let gemma = architecture.gemma.as_ref();
        let query_scale = gemma.map_or(architecture.head_dimension, |gemma| gemma.query_scale);
        let heads = architecture.attention_heads + 2 * architecture.key_value_heads;
        // Zeros where the layer has no positions.
        let (cosines, sines) = layer.rope.map_or((0, 0), |table| self.weights.rope.addresses[table]);
        let arguments = WriteHeads {
            projected: self.buffers.projected,
            bias: layer.projection_bias,
            query_norm: layer.query_norm,
            key_norm: layer.key_norm,
            cosines,
            sines,
            positions: self.inputs.positions,
            slots: self.inputs.slots,
            cache,
            stride: stride as u32,
            query_heads: architecture.attention_heads as u32,
            key_heads: architecture.key_value_heads as u32,
            epsilon: architecture.norm_epsilon as f32,
            query_scale: 1.0 / (query_scale as f32).sqrt(),
        };
        let grid = [self.step.tokens as u32, heads.div_ceil(4) as u32, 1];
        self.backend.launch(grid, 0, &arguments)
    }

    fn attention_cap(&self) -> f32 {
        let gemma = self.architecture.gemma.as_ref();
        gemma.and_then(|gemma| gemma.attention_cap).unwrap_or_default() as f32
    }

    /// Attention of the rows of one token, some rows at a time.
    fn attend_decode(
        &mut self,
        layer: &DeviceLayer,
        cache: Address,
        stride: usize,
        output: ActivationAddresses,
    ) -> Result<(), B::Error> {
        let spans = self.step.spans[usize::from(layer.window > 0)];
        let (queries, key_heads) = (self.architecture.attention_heads, self.architecture.key_value_heads);
        for first in (0..self.step.decode_rows).step_by(DECODE_ROWS) {
            let count = DECODE_ROWS.min(self.step.decode_rows - first) as u32;
            let rows = self.inputs.rows + (first * size_of::<DecodeRow>()) as u64;
            let arguments = AttendDecode {
                queries: self.buffers.projected,
                cache,
                rows,
                table: self.inputs.table,
                partials: self.buffers.partials,
                stride: stride as u32,
                key_heads: key_heads as u32,
                window: layer.window,
                cap: self.attention_cap(),
            };
            let tiles = key_heads * self.specialisation.head_tiles();
            self.backend
                .launch([tiles as u32, count, spans as u32], 0, &arguments)?;
            let arguments = MergeSpans {
                rows,
                partials: self.buffers.partials,
                output,
                query_heads: queries as u32,
                window: layer.window,
            };
            self.backend.launch([queries as u32, count, 1], 0, &arguments)?;
        }
        Ok(())
    }

    /// Attention of the other rows.
    fn attend_prefill(
        &mut self,
        layer: &DeviceLayer,
        cache: Address,
        stride: usize,
        output: ActivationAddresses,
    ) -> Result<(), B::Error> {
        if self.step.tiles == 0 {
            return Ok(());
        }
        let key_heads = self.architecture.key_value_heads as u32;
        let arguments = AttendPrefill {
            queries: self.buffers.projected,
            cache,
            tiles: self.inputs.tiles,
            table: self.inputs.table,
            output,
            stride: stride as u32,
            key_heads,
            window: layer.window,
            cap: self.attention_cap(),
        };
        let grid = [self.step.tiles as u32, key_heads, 1];
        self.backend
            .launch(grid, self.specialisation.prefill_shared(), &arguments)
    }

    fn feed_forward_block(&mut self, layer: &DeviceLayer, branch: Branch) -> Result<Branch, B::Error> {
        self.normalise(branch, layer.feed_forward_norm, &layer.gate_up)?;
        let (hidden, width) = (self.architecture.hidden_size, self.architecture.intermediate_size);
        let (tokens, gated) = (self.step.tokens, self.buffers.gated);
        self.multiply(
            &layer.gate_up,
            self.buffers.activations,
            tokens,
            self.buffers.gate_up,
            2 * width,
        )?;
        let arguments = Gate {
            branches: self.buffers.gate_up,
            output: read_by(&layer.down, tokens, gated),
            width: width as u32,
            gelu: u32::from(self.architecture.family.is_gemma()),
        };
        self.backend
            .launch([width.div_ceil(256) as u32, tokens as u32, 1], 0, &arguments)?;
        self.multiply(&layer.down, gated, tokens, self.buffers.branch, hidden)?;
        Ok(Branch {
            present: true,
            bias: 0,
            norm: layer.post_feed_forward_norm,
        })
    }

    /// The logits of the sampled rows.
    fn head(&mut self, branch: Branch) -> Result<(), B::Error> {
        let rows = self.step.sampled;
        if rows == 0 {
            return Ok(());
        }
        let head = &self.weights.head;
        let arguments = AddAndNormalise {
            norm: self.weights.norm,
            gather: self.inputs.gather,
            output: read_by(head, rows, self.buffers.activations),
            ..self.addition(branch)
        };
        self.backend.launch([rows as u32, 1, 1], 0, &arguments)?;
        let vocabulary = self.architecture.vocabulary_size;
        self.multiply(head, self.buffers.activations, rows, self.buffers.logits, vocabulary)?;
        let Some(cap) = self.architecture.gemma.as_ref().and_then(|gemma| gemma.logit_cap) else {
            return Ok(());
        };
        let count = (rows * vocabulary) as u64;
        let arguments = Cap {
            values: self.buffers.logits,
            count,
            cap: cap as f32,
        };
        self.backend.launch([count.div_ceil(256) as u32, 1, 1], 0, &arguments)
    }

    /// Multiplies matrices whose outputs lie side by side with `rows` rows.
    fn multiply(
        &mut self,
        joined: &Joined,
        inputs: ActivationAddresses,
        rows: usize,
        output: Address,
        stride: usize,
    ) -> Result<(), B::Error> {
        let mut first = 0;
        for matrix in &joined.0 {
            let product = Product {
                element_type: matrix.element_type,
                matrix: matrix.address,
                input: inputs.single,
                output: output + 4 * first as u64,
                rows,
                outputs: matrix.rows,
                columns: matrix.columns,
                stride,
            };
            first += matrix.rows;
            match matrix.element_type {
                ElementType::F32 => self.backend.multiply(&product)?,
                ElementType::F16 => self.backend.multiply(&Product {
                    input: inputs.half,
                    ..product
                })?,
                ElementType::Bf16 => self.backend.multiply(&Product {
                    input: inputs.brain,
                    ..product
                })?,
                _ if rows <= FEW_ROWS => self.multiply_few(matrix, &product)?,
                _ => self.multiply_halves(
                    matrix,
                    &Product {
                        input: inputs.half,
                        ..product
                    },
                )?,
            }
        }
        Ok(())
    }

    /// A quantised matrix with few rows.
    fn multiply_few(&mut self, matrix: &DeviceMatrix, product: &Product) -> Result<(), B::Error> {
        match product.rows {
            1 => self.multiply_rows::<1>(matrix, product),
            2 => self.multiply_rows::<2>(matrix, product),
            3 | 4 => self.multiply_rows::<4>(matrix, product),
            _ => self.multiply_rows::<8>(matrix, product),
        }
    }

    fn multiply_rows<const ROWS: usize>(&mut self, matrix: &DeviceMatrix, product: &Product) -> Result<(), B::Error>
    where
        MultiplyFew<ROWS>: crate::kernels::Kernel,
    {
        let arguments = MultiplyFew::<ROWS> {
            matrix: matrix.address,
            input: product.input,
            output: product.output,
            row_bytes: matrix.row_bytes() as u64,
            element_type: matrix.element_type as u32,
            outputs: matrix.rows as u32,
            columns: matrix.columns as u32,
            stride: product.stride as u32,
            rows: product.rows as u32,
        };
        self.backend
            .launch([matrix.rows.div_ceil(4) as u32, 1, 1], 0, &arguments)
    }

    /// A quantised matrix with many rows: it becomes halves first, some of its rows at a time.
    fn multiply_halves(&mut self, matrix: &DeviceMatrix, product: &Product) -> Result<(), B::Error> {
        let panel = (self.buffers.panel_elements / matrix.columns).max(1);
        for first in (0..matrix.rows).step_by(panel) {
            let outputs = panel.min(matrix.rows - first);
            let arguments = Dequantise {
                matrix: matrix.address + (first * matrix.row_bytes()) as u64,
                output: self.buffers.panel,
                row_bytes: matrix.row_bytes() as u64,
                element_type: matrix.element_type as u32,
                columns: matrix.columns as u32,
            };
            self.backend.launch([outputs as u32, 1, 1], 0, &arguments)?;
            self.backend.multiply(&Product {
                element_type: ElementType::F16,
                matrix: self.buffers.panel,
                output: product.output + 4 * first as u64,
                outputs,
                ..*product
            })?;
        }
        Ok(())
    }
}
