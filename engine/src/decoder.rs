//! The forward pass of a decoder-only transformer of the llama family on the CPU.
//!
//! What differs between the families is data: which norms there are, what gates the feed-forward network, windows,
//! caps, rotary bases. A step goes through five parallel regions a layer and takes no memory.

mod attention;
mod error;
mod limits;
mod rope;
mod weights;
mod workspace;

pub use error::DecoderError;
pub use limits::BatchLimits;
pub use rope::RopeTable;
pub use weights::{Layer, Pack, SourceConventions, StoredRows, WeightMatrix, Weights, dominant_type};

use crate::architecture::Architecture;
use crate::batch::Batch;
use crate::cache::{Cache, CacheShape, CacheType};
use crate::counts::{StepCost, StepCounts};
use crate::kernels::InstructionSet;
use crate::kernels::activations::{ActivationWriter, Activations, Kinds, write_row};
use crate::kernels::attention::HEAD_LIMIT;
use crate::kernels::norm::root_mean_square;
use crate::kernels::product::{Gate, Output, multiply, multiply_gated};
use crate::packed::{PANEL, PackedMatrix};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::tensor::{ElementType, TensorSource};
use attention::AttentionPlan;
use workspace::Workspace;

/// What a decoder is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderConfiguration {
    /// Blocks of [`crate::batch::BLOCK_POSITIONS`] positions in the key-value cache.
    pub blocks: usize,
    /// Element type of the key-value cache.
    pub cache_type: CacheType,
    /// Tokens of a step at most.
    pub token_budget: usize,
    /// Rows of a step at most whose logits are needed.
    pub sampled_rows: usize,
    /// Positions of one sequence at most, no more than the architecture has.
    pub context_length: usize,
    /// Threads, the calling one included.
    pub threads: usize,
    /// Instructions to use; `None` for the best that the CPU has.
    pub instruction_set: Option<InstructionSet>,
    /// Floats that the matrices are converted to when they are loaded; `None` leaves them in the types of the source.
    pub weight_type: Option<ElementType>,
    /// How the source deviates from safetensors files.
    pub conventions: SourceConventions,
}

/// Bytes that a decoder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderMemory {
    /// Weight matrices, as packed.
    pub weights: usize,
    /// The key-value cache, all blocks.
    pub cache: usize,
    /// Buffers of a step and the rotary tables.
    pub workspace: usize,
}

/// A model on the CPU.
#[derive(Debug)]
pub struct Decoder {
    architecture: Architecture,
    set: InstructionSet,
    weights: Weights<PackedMatrix>,
    cache: Cache,
    cache_shape: CacheShape,
    cache_type: CacheType,
    pool: Pool,
    workspace: Workspace,
    kinds: Vec<LayerKinds>,
    cost: StepCost,
    counts: StepCounts,
}

/// The kinds of activations that a layer's products read.
#[derive(Debug, Clone, Copy)]
struct LayerKinds {
    attention: Kinds,
    output: Kinds,
    feed_forward: Kinds,
    down: Kinds,
}

impl LayerKinds {
    fn of(layer: &Layer<PackedMatrix>) -> Self {
        let kinds = |matrices: &[&PackedMatrix]| Kinds::of(matrices.iter().map(|matrix| matrix.element_type));
        Self {
            attention: kinds(&[&layer.query, &layer.key, &layer.value]),
            output: kinds(&[&layer.output]),
            feed_forward: kinds(&[&layer.gate, &layer.up]),
            down: kinds(&[&layer.down]),
        }
    }
}

impl Decoder {
    /// Packs the weights and takes all memory that steps need.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, the heads have a width that the attention cannot compute, or the
    /// system gives no thread.
    pub fn new(
        architecture: &Architecture,
        source: &dyn TensorSource,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, DecoderError> {
        let dimension = architecture.head_dimension;
        if !dimension.is_multiple_of(PANEL) || dimension > HEAD_LIMIT {
            return Err(DecoderError::HeadDimension {
                found: dimension,
                limit: HEAD_LIMIT,
            });
        }
        let set = configuration.instruction_set.unwrap_or_else(InstructionSet::detect);
        let mut weights = Weights::load(
            architecture,
            source,
            configuration.conventions,
            configuration.weight_type,
            &|element_type, rows, columns, row| {
                Ok::<_, DecoderError>(PackedMatrix::pack(
                    element_type,
                    rows,
                    columns,
                    row,
                    configuration.threads,
                ))
            },
        )?;
        weights.cover(configuration.context_length);
        let cache_shape = CacheShape {
            layers: architecture.layers,
            blocks: configuration.blocks,
            heads: architecture.key_value_heads,
            dimension,
        };
        let pool = Pool::new(configuration.threads).map_err(|source| DecoderError::Thread { source })?;
        Ok(Self {
            set,
            kinds: weights.layers.iter().map(LayerKinds::of).collect(),
            workspace: Workspace::new(architecture, &weights, configuration, set, pool.threads()),
            cost: StepCost::new(architecture, &weights, configuration.cache_type.bytes()),
            counts: StepCounts::default(),
            cache: Cache::new(configuration.cache_type, cache_shape),
            cache_type: configuration.cache_type,
            cache_shape,
            pool,
            weights,
            architecture: architecture.clone(),
        })
    }

    /// The model's shape.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Changes what later steps may have at most: blocks, tokens, rows and positions. The cache is empty after it.
    pub fn reconfigure(&mut self, configuration: &DecoderConfiguration) {
        self.cache_shape.blocks = configuration.blocks;
        // The old one goes first: both together may not fit.
        self.cache = Cache::F16(Vec::new());
        self.cache = Cache::new(self.cache_type, self.cache_shape);
        self.weights.cover(configuration.context_length);
        let threads = self.pool.threads();
        self.workspace = Workspace::new(&self.architecture, &self.weights, configuration, self.set, threads);
    }

    /// The instructions in use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.set
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes that one block of the key-value cache takes in all layers.
    pub fn block_bytes(&self) -> usize {
        self.cache_shape.layers * self.cache_shape.block_stride() * self.cache_type.bytes()
    }

    /// Bytes held.
    pub fn memory(&self) -> DecoderMemory {
        DecoderMemory {
            weights: self.weights.matrices().map(|matrix| matrix.bytes().len()).sum(),
            cache: self.cache_shape.elements() * self.cache_type.bytes(),
            workspace: self.workspace.bytes() + self.weights.rope.iter().map(rope::RopeTable::bytes).sum::<usize>(),
        }
    }

    /// The type of most weights.
    pub fn dominant_type(&self) -> ElementType {
        dominant_type(
            self.weights
                .matrices()
                .map(|matrix| (matrix.element_type, matrix.elements())),
        )
    }

    /// Work of all steps so far.
    pub fn counts(&self) -> StepCounts {
        self.counts
    }

    /// Computes a batch: writes its keys and values to the cache and returns the logits of its sampled rows, row after
    /// row, `vocabulary_size` each; they stay until the next step.
    ///
    /// # Errors
    /// The batch exceeds what the decoder was built for, or a token, position or block is out of range.
    pub fn forward(&mut self, batch: &Batch) -> Result<Logits<'_>, DecoderError> {
        self.workspace.limits.check(batch)?;
        if batch.tokens.is_empty() {
            return Ok(self.workspace.logits(0, self.architecture.vocabulary_size));
        }
        let rows = batch.tokens.len();
        self.workspace.plan(batch, &self.architecture, self.pool.threads());
        self.embed(batch);
        for index in 0..self.weights.layers.len() {
            self.attention_block(index, batch);
            self.feed_forward_block(index, rows);
        }
        let sampled = self.head(batch);
        self.counts.add(&self.cost.of(batch));
        Ok(self.workspace.logits(sampled, self.architecture.vocabulary_size))
    }

    fn embed(&mut self, batch: &Batch) {
        let (hidden, stride) = (self.architecture.hidden_size, self.workspace.hidden_stride);
        let gemma = self.architecture.family.is_gemma();
        let scale = if gemma { (hidden as f32).sqrt() } else { 1.0 };
        let residual = Shared::new(&mut self.workspace.residual);
        let embedding = &self.weights.embedding;
        for_rows(&mut self.pool, batch.tokens.len(), &|row| {
            // SAFETY: each row is written once.
            #[expect(unsafe_code, reason = "rows are disjoint")]
            let values = unsafe { residual.part(row * stride, hidden) };
            embedding.row(batch.tokens[row] as usize, values);
            if gemma {
                for value in values {
                    *value *= scale;
                }
            }
        });
    }

    /// Attention, added to the residual stream.
    fn attention_block(&mut self, index: usize, batch: &Batch) {
        let (rows, set) = (batch.tokens.len(), self.set);
        let (layer, kinds) = (&self.weights.layers[index], self.kinds[index]);
        let architecture = &self.architecture;
        let epsilon = architecture.norm_epsilon as f32;
        let work = &mut self.workspace;
        normalise_rows(
            &mut self.pool,
            set,
            (&mut work.residual, work.hidden_stride),
            &layer.input_norm,
            epsilon,
            &mut work.scratch,
            work.activations.writer(rows, architecture.hidden_size, kinds.attention),
            architecture.hidden_size,
        );
        let stride = work.projected_stride;
        let (keys, values) = work.key_value_offsets;
        let projected = Shared::new(&mut work.projected);
        let output = |offset| Output {
            values: projected,
            stride,
            offset,
            accumulate: false,
        };
        multiply_all(
            &mut self.pool,
            set,
            &work.activations,
            &[
                (&layer.query, &layer.query_bias, output(0)),
                (&layer.key, &layer.key_bias, output(keys)),
                (&layer.value, &layer.value_bias, output(values)),
            ],
        );
        attention::write_keys_and_values(
            &mut self.pool,
            set,
            architecture,
            layer,
            layer.rope.map(|table| &self.weights.rope[table]),
            batch,
            work,
            &mut self.cache,
            self.cache_shape,
            index,
        );
        AttentionPlan::attend(
            &mut self.pool,
            set,
            architecture,
            layer.window.is_some(),
            batch,
            work,
            &mut self.cache,
            self.cache_shape,
            index,
        );
        let width = architecture.query_width();
        let writer = work.activations.writer(rows, width, kinds.output);
        write_rows(&mut self.pool, set, &mut work.attended, width, writer, rows);
        add_product(
            &mut self.pool,
            set,
            &work.activations,
            &layer.output,
            &layer.output_bias,
            layer.post_attention_norm.as_deref(),
            epsilon,
            (&mut work.residual, &mut work.branch, work.hidden_stride),
        );
    }

    /// The feed-forward network, added to the residual stream.
    fn feed_forward_block(&mut self, index: usize, rows: usize) {
        let set = self.set;
        let (layer, kinds) = (&self.weights.layers[index], self.kinds[index]);
        let (hidden, inter) = (self.architecture.hidden_size, self.architecture.intermediate_size);
        let epsilon = self.architecture.norm_epsilon as f32;
        let work = &mut self.workspace;
        normalise_rows(
            &mut self.pool,
            set,
            (&mut work.residual, work.hidden_stride),
            &layer.feed_forward_norm,
            epsilon,
            &mut work.scratch,
            work.activations.writer(rows, hidden, kinds.feed_forward),
            hidden,
        );
        let gate = if self.architecture.family.is_gemma() {
            Gate::Gelu
        } else {
            Gate::Silu
        };
        let writer = work.gated.writer(rows, inter, kinds.down);
        let panels = layer.gate.panels();
        let chunk = chunk_panels(panels, self.pool.threads()).next_multiple_of(2);
        let activations = &work.activations;
        self.pool.run(panels.div_ceil(chunk), &|index| {
            let range = index * chunk..((index + 1) * chunk).min(panels);
            // SAFETY: each chunk writes its own columns; the activations have been written for these matrices.
            #[expect(unsafe_code, reason = "chunks are disjoint")]
            unsafe {
                multiply_gated(set, [&layer.gate, &layer.up], activations, range, gate, &writer);
            }
        });
        add_product(
            &mut self.pool,
            set,
            &work.gated,
            &layer.down,
            &[],
            layer.post_feed_forward_norm.as_deref(),
            epsilon,
            (&mut work.residual, &mut work.branch, work.hidden_stride),
        );
    }

    /// The logits of the sampled rows; gives their number.
    fn head(&mut self, batch: &Batch) -> usize {
        let (set, hidden) = (self.set, self.architecture.hidden_size);
        let work = &mut self.workspace;
        let stride = work.hidden_stride;
        let mut sampled = 0;
        for row in batch.rows.iter().filter(|row| row.sampled) {
            let from = (row.tokens.end - 1) * stride;
            // Rows move to the front, never over one that is still needed.
            work.residual.copy_within(from..from + stride, sampled * stride);
            sampled += 1;
        }
        if sampled == 0 {
            return 0;
        }
        let head = self.weights.head();
        normalise_rows(
            &mut self.pool,
            set,
            (&mut work.residual, stride),
            &self.weights.norm,
            self.architecture.norm_epsilon as f32,
            &mut work.scratch,
            work.activations.writer(sampled, hidden, Kinds::of([head.element_type])),
            hidden,
        );
        let output = Output {
            values: Shared::new(&mut work.logits),
            stride: work.logit_stride,
            offset: 0,
            accumulate: false,
        };
        multiply_all(&mut self.pool, set, &work.activations, &[(head, &[], output)]);
        if let Some(cap) = self.architecture.gemma.as_ref().and_then(|gemma| gemma.logit_cap) {
            let cap = cap as f32;
            for logit in &mut work.logits[..sampled * work.logit_stride] {
                *logit = cap * (*logit / cap).tanh();
            }
        }
        sampled
    }
}

/// Logits of sampled rows.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'decoder> {
    values: &'decoder [f32],
    stride: usize,
    vocabulary: usize,
    rows: usize,
}

impl<'decoder> Logits<'decoder> {
    /// `rows` rows of `vocabulary` logits, each `stride` elements after the one before.
    pub fn new(values: &'decoder [f32], stride: usize, vocabulary: usize, rows: usize) -> Self {
        Self {
            values,
            stride,
            vocabulary,
            rows,
        }
    }

    /// Sampled rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The logits of a sampled row, in the order of the batch.
    pub fn row(&self, row: usize) -> &'decoder [f32] {
        &self.values[row * self.stride..][..self.vocabulary]
    }
}

/// Panels of a chunk: small enough that no thread waits long for another.
fn chunk_panels(panels: usize, threads: usize) -> usize {
    panels.div_ceil(threads * 6).max(1)
}

/// Calls `work` for each row, on several threads if there are many.
fn for_rows(pool: &mut Pool, rows: usize, work: &(dyn Fn(usize) + Sync)) {
    // A row takes a microsecond or so: for few of them the others are not worth waking.
    if rows <= 4 {
        (0..rows).for_each(work);
        return;
    }
    let chunk = rows.div_ceil(pool.threads() * 4).max(1);
    pool.run(rows.div_ceil(chunk), &|index| {
        (index * chunk..((index + 1) * chunk).min(rows)).for_each(work);
    });
}

/// Normalises rows of the residual stream into activations.
#[expect(
    clippy::too_many_arguments,
    reason = "parts of the decoder that are borrowed one by one"
)]
fn normalise_rows(
    pool: &mut Pool,
    set: InstructionSet,
    (residual, stride): (&mut [f32], usize),
    weight: &[f32],
    epsilon: f32,
    scratch: &mut [f32],
    writer: ActivationWriter<'_>,
    width: usize,
) {
    let (residual, scratch) = (Shared::new(residual), Shared::new(scratch));
    for_rows(pool, writer.rows(), &|row| {
        // SAFETY: each row reads and writes its own parts, which have `stride` elements.
        #[expect(unsafe_code, reason = "rows are disjoint")]
        unsafe {
            let to = scratch.at(row * stride);
            root_mean_square(set, residual.at(row * stride), weight.as_ptr(), epsilon, width, to);
            write_row(set, &writer, row, to, width);
        }
    });
}

/// Makes activations of rows of floats.
fn write_rows(
    pool: &mut Pool,
    set: InstructionSet,
    values: &mut [f32],
    width: usize,
    writer: ActivationWriter<'_>,
    rows: usize,
) {
    let values = Shared::new(values);
    for_rows(pool, rows, &|row| {
        // SAFETY: each row reads and writes its own parts.
        #[expect(unsafe_code, reason = "rows are disjoint")]
        unsafe {
            write_row(set, &writer, row, values.at(row * width), width);
        }
    });
}

/// Multiplies several matrices with the same activations, in one region.
fn multiply_all(
    pool: &mut Pool,
    set: InstructionSet,
    activations: &Activations,
    products: &[(&PackedMatrix, &[f32], Output<'_>)],
) {
    let total: usize = products.iter().map(|(matrix, _, _)| matrix.panels()).sum();
    let chunk = chunk_panels(total, pool.threads());
    let chunks = products
        .iter()
        .map(|(matrix, _, _)| matrix.panels().div_ceil(chunk))
        .sum();
    pool.run(chunks, &|index| {
        let mut index = index;
        for (matrix, bias, output) in products {
            let panels = matrix.panels();
            let chunks = panels.div_ceil(chunk);
            if index >= chunks {
                index -= chunks;
                continue;
            }
            let range = index * chunk..((index + 1) * chunk).min(panels);
            // SAFETY: each chunk writes its own outputs; the activations have been written for these matrices.
            #[expect(unsafe_code, reason = "chunks are disjoint")]
            unsafe {
                multiply(set, matrix, activations, range, bias, *output);
            }
            return;
        }
    });
}

/// Adds a product to the residual stream, normalised before if there is a norm.
#[expect(
    clippy::too_many_arguments,
    reason = "parts of the decoder that are borrowed one by one"
)]
fn add_product(
    pool: &mut Pool,
    set: InstructionSet,
    activations: &Activations,
    matrix: &PackedMatrix,
    bias: &[f32],
    norm: Option<&[f32]>,
    epsilon: f32,
    (residual, branch, stride): (&mut [f32], &mut [f32], usize),
) {
    let Some(norm) = norm else {
        let output = Output {
            values: Shared::new(residual),
            stride,
            offset: 0,
            accumulate: true,
        };
        multiply_all(pool, set, activations, &[(matrix, bias, output)]);
        return;
    };
    let output = Output {
        values: Shared::new(branch),
        stride,
        offset: 0,
        accumulate: false,
    };
    multiply_all(pool, set, activations, &[(matrix, bias, output)]);
    let (residual, branch) = (Shared::new(residual), Shared::new(branch));
    for_rows(pool, activations.rows, &|row| {
        // SAFETY: each row reads and writes its own parts, which have `stride` elements.
        #[expect(unsafe_code, reason = "rows are disjoint")]
        unsafe {
            let values = branch.at(row * stride);
            root_mean_square(set, values, norm.as_ptr(), epsilon, matrix.rows, values);
            let values = branch.part(row * stride, matrix.rows);
            let residual = residual.part(row * stride, matrix.rows);
            for (residual, value) in residual.iter_mut().zip(values) {
                *residual += *value;
            }
        }
    });
}

#[cfg(test)]
mod tests;
