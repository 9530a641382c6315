//! The forward pass as a list of launches. It computes what [`lem_engine::decoder::Decoder`] does.

mod launches;
mod workspace;

use lem_engine::architecture::Architecture;
use lem_engine::batch::{BLOCK_POSITIONS, Batch};
use lem_engine::cache::CacheType;
use lem_engine::counts::{StepCost, StepCounts};
use lem_engine::decoder::{BatchLimits, DecoderConfiguration, DecoderError, DecoderMemory, Logits};
use lem_engine::tensor::{ElementType, TensorSource};

use crate::backend::{Backend, Memory};
use crate::graph::{Action, Bucket, Recordings, bucket_rows};
use crate::kernels::{Address, Specialisation};
use crate::step::Step;
use crate::weights::{self, DeviceWeights};
use launches::Launches;
use workspace::Workspace;

/// Why a decoder cannot be built or a step not be computed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError<E: std::error::Error + 'static> {
    /// The model or the batch does not fit.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
    /// Rows of a matrix are read in chunks.
    #[error("matrices of {found} columns are not supported: a multiple of 8")]
    Columns {
        /// Columns.
        found: usize,
    },
    /// The cache on a device is of halves.
    #[error("a key-value cache of {} is not supported on a GPU: only {}", found.name(), CacheType::F16.name())]
    CacheType {
        /// The type.
        found: CacheType,
    },
    /// The device fails.
    #[error("the device failed")]
    Device {
        /// Cause.
        #[source]
        source: E,
    },
}

/// A model on a device.
pub struct Decoder<B: Backend> {
    // Dropped before the backend: recordings and memory are of its context.
    recordings: Recordings<B::Graph>,
    weights: DeviceWeights<B::Memory>,
    workspace: Workspace<B::Memory>,
    cache: B::Memory,
    backend: B,
    architecture: Architecture,
    specialisation: Specialisation,
    limits: BatchLimits,
    step: Step,
    logits: Vec<f32>,
    cost: StepCost,
    counts: StepCounts,
    recording: bool,
}

impl<B: Backend> std::fmt::Debug for Decoder<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Decoder")
            .field("limits", &self.limits)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// A model on an NVIDIA GPU.
pub type CudaDecoder = Decoder<crate::stream::CudaBackend>;

impl<B: Backend> Decoder<B> {
    /// Brings a model to a device and takes all memory that steps need. The configuration's threads and instruction set
    /// do not matter here.
    ///
    /// # Errors
    /// A tensor is missing or has another shape, the model has an extent for which there are no kernels, or the device
    /// has not enough memory.
    pub fn on(
        mut backend: B,
        architecture: &Architecture,
        source: &dyn TensorSource,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, ForwardError<B::Error>> {
        weights::check_heads(architecture)?;
        if configuration.cache_type != CacheType::F16 {
            return Err(ForwardError::CacheType {
                found: configuration.cache_type,
            });
        }
        let failed = |source| ForwardError::Device { source };
        let (weights, host) = weights::load(&mut backend, architecture, source, configuration)?;
        let specialisation = specialisation(architecture);
        let bytes = configuration.blocks * block_bytes(architecture);
        Ok(Self {
            workspace: Workspace::new(&backend, architecture, specialisation, &weights, configuration)
                .map_err(failed)?,
            cache: backend.allocate(bytes).map_err(failed)?,
            cost: StepCost::new(architecture, &host, CacheType::F16.bytes()),
            limits: BatchLimits::new(architecture, configuration),
            recordings: Recordings::default(),
            counts: StepCounts::default(),
            step: Step::default(),
            logits: Vec::new(),
            recording: backend.records(),
            weights,
            specialisation,
            architecture: architecture.clone(),
            backend,
        })
    }

    /// The model's shape.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Bytes that one block of the key-value cache takes in all layers.
    pub fn block_bytes(&self) -> usize {
        block_bytes(&self.architecture)
    }

    /// The type of most weights.
    pub fn dominant_type(&self) -> ElementType {
        self.weights.dominant_type
    }

    /// Changes what later steps may have at most: blocks, tokens, rows and positions. The cache is empty after it.
    ///
    /// # Errors
    /// The device has not enough memory; no step is possible then until this has succeeded.
    pub fn reconfigure(&mut self, configuration: &DecoderConfiguration) -> Result<(), ForwardError<B::Error>> {
        let failed = |source| ForwardError::Device { source };
        self.recordings.clear();
        // No step fits until all is there.
        self.limits = BatchLimits::new(
            &self.architecture,
            &DecoderConfiguration {
                token_budget: 0,
                ..*configuration
            },
        );
        // The old ones go first: both together may not fit.
        self.cache = self.backend.allocate(0).map_err(failed)?;
        self.workspace.give_back(&self.backend).map_err(failed)?;
        self.weights
            .rope
            .cover(&mut self.backend, configuration.context_length)
            .map_err(failed)?;
        self.workspace = Workspace::new(
            &self.backend,
            &self.architecture,
            self.specialisation,
            &self.weights,
            configuration,
        )
        .map_err(failed)?;
        let bytes = configuration.blocks * block_bytes(&self.architecture);
        self.cache = self.backend.allocate(bytes).map_err(failed)?;
        self.limits = BatchLimits::new(&self.architecture, configuration);
        Ok(())
    }

    /// Bytes held on the device.
    pub fn memory(&self) -> DecoderMemory {
        DecoderMemory {
            weights: self.weights.memory[0].bytes(),
            cache: self.cache.bytes(),
            workspace: self.workspace.bytes() + self.weights.memory[1].bytes() + self.weights.rope.memory.bytes(),
        }
    }

    /// Work of all steps so far, the padding of recorded ones left out.
    pub fn counts(&self) -> StepCounts {
        self.counts
    }

    /// Computes a batch: writes its keys and values to the cache and returns the logits of its sampled rows, row after
    /// row, `vocabulary_size` each; they stay until the next step.
    ///
    /// # Errors
    /// The batch exceeds what the decoder was built for, or the device fails.
    pub fn forward(&mut self, batch: &Batch) -> Result<Logits<'_>, ForwardError<B::Error>> {
        self.compute(batch)?;
        let (rows, vocabulary) = (batch.sampled_rows(), self.architecture.vocabulary_size);
        let mut bytes = vec![0; 4 * rows * vocabulary];
        if rows > 0 {
            self.backend
                .download(self.workspace.logits(), &mut bytes)
                .map_err(|source| ForwardError::Device { source })?;
        }
        let float = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.logits.clear();
        self.logits.extend(bytes.chunks_exact(4).map(float));
        Ok(Logits::new(&self.logits, vocabulary, vocabulary, rows))
    }

    /// Computes a batch and leaves its logits on the device.
    pub(crate) fn compute(&mut self, batch: &Batch) -> Result<(), ForwardError<B::Error>> {
        self.limits.check(batch)?;
        if batch.tokens.is_empty() {
            return Ok(());
        }
        let failed = |source| ForwardError::Device { source };
        let rows = if self.recording { bucket_rows(batch) } else { None };
        // What a recording is padded to has to fit in the buffers.
        let rows = rows.filter(|rows| self.workspace.fits(*rows));
        let padded = rows.map_or(0, |rows| rows - batch.rows.len());
        let window = self.architecture.sliding_window.map(|window| window.tokens);
        self.step.plan(batch, self.specialisation.group, window, padded);
        let bytes = self.step.bytes();
        if self
            .workspace
            .reserve_step(&self.backend, bytes.len())
            .map_err(failed)?
        {
            self.recordings.clear();
        }
        self.backend.upload(self.workspace.step(), &bytes).map_err(failed)?;
        match rows {
            Some(rows) => self.compute_bucket(rows).map_err(failed)?,
            None => self.launch_all().map_err(failed)?,
        }
        self.counts.add(&self.cost.of(batch));
        Ok(())
    }

    fn compute_bucket(&mut self, rows: usize) -> Result<(), B::Error> {
        // A recording launches as many blocks for every batch: the spans that a batch does not have end at once.
        self.step.spans = self.step.spans.map(usize::next_power_of_two);
        let bucket = Bucket {
            rows,
            spans: self.step.spans,
        };
        match self.recordings.action(bucket) {
            Action::Launch => return self.launch_all(),
            Action::Record => {
                self.backend.begin_recording()?;
                let launched = self.launch_all();
                // The recording ends in any case: the stream would be of no use otherwise.
                let recording = self.backend.end_recording();
                launched?;
                self.recordings.keep(bucket, recording?);
            }
            Action::Replay => {}
        }
        match self.recordings.get(bucket) {
            Some(recording) => self.backend.replay(recording),
            None => Ok(()),
        }
    }

    fn launch_all(&mut self) -> Result<(), B::Error> {
        Launches {
            backend: &mut self.backend,
            architecture: &self.architecture,
            specialisation: self.specialisation,
            weights: &self.weights,
            buffers: self.workspace.addresses(),
            inputs: self.step.addresses(self.workspace.step()),
            step: &self.step,
            cache: self.cache.address(),
            layer_bytes: (self.cache.bytes() / self.architecture.layers) as u64,
        }
        .all()
    }

    /// The device, the logits of the last step and scratch memory of so many bytes for what is done with them.
    pub(crate) fn sampling(&mut self, bytes: usize) -> Result<(&mut B, Address, Address), B::Error> {
        if self.workspace.reserve_sampler(&self.backend, bytes)? {
            self.recordings.clear();
        }
        Ok((&mut self.backend, self.workspace.logits(), self.workspace.sampler()))
    }
}

fn specialisation(architecture: &Architecture) -> Specialisation {
    Specialisation {
        head: architecture.head_dimension,
        group: architecture.attention_heads / architecture.key_value_heads,
    }
}

impl CudaDecoder {
    /// Compiles the kernels for the model and the GPU of this number, and brings the model to it.
    ///
    /// # Errors
    /// There is no such GPU, a library of CUDA is missing, or as [`Decoder::on`].
    pub fn new(
        ordinal: usize,
        architecture: &Architecture,
        source: &dyn TensorSource,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, ForwardError<crate::device::DeviceError>> {
        weights::check_heads(architecture)?;
        let backend = crate::stream::CudaBackend::new(ordinal, &specialisation(architecture))
            .map_err(|source| ForwardError::Device { source })?;
        Self::on(backend, architecture, source, configuration)
    }
}

/// Bytes of a block in all layers: keys and values of each head.
fn block_bytes(architecture: &Architecture) -> usize {
    architecture.layers * 2 * architecture.key_value_width() * BLOCK_POSITIONS * CacheType::F16.bytes()
}

#[cfg(test)]
mod tests;
