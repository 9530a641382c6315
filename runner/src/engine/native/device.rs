//! The decoder on the device that was asked for.

use lem_engine::architecture::Architecture;
use lem_engine::batch::Batch;
use lem_engine::counts::StepCounts;
use lem_engine::decoder::{Decoder, DecoderConfiguration, DecoderMemory};
use lem_engine::sampler::{SamplerError, SamplerScratch, UnfilteredChoice};
use lem_engine::scheduler::Scheduler;
use lem_engine::tensor::{ElementType, TensorSource};
use lem_engine_cuda::CudaDecoder;

use crate::engine::EngineError;

/// A decoder and where it computes.
#[derive(Debug)]
pub(super) enum DeviceDecoder {
    Cpu {
        decoder: Box<Decoder>,
        scratch: SamplerScratch,
    },
    Cuda {
        decoder: Box<CudaDecoder>,
        /// For choices that filter tokens, which are made here.
        scratch: SamplerScratch,
        choices: Vec<UnfilteredChoice>,
    },
}

impl DeviceDecoder {
    /// Packs the weights for the CPU.
    pub(super) fn on_the_cpu(
        architecture: &Architecture,
        source: &dyn TensorSource,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, EngineError> {
        let decoder =
            Decoder::new(architecture, source, configuration).map_err(|source| EngineError::Decoder { source })?;
        tracing::info!(
            instructions = decoder.instruction_set().name(),
            threads = decoder.threads(),
            "packed the weights"
        );
        Ok(Self::Cpu {
            decoder: Box::new(decoder),
            scratch: SamplerScratch::default(),
        })
    }

    /// Brings the weights to a GPU.
    pub(super) fn on_a_gpu(
        ordinal: usize,
        architecture: &Architecture,
        source: &dyn TensorSource,
        configuration: &DecoderConfiguration,
    ) -> Result<Self, EngineError> {
        let decoder = CudaDecoder::new(ordinal, architecture, source, configuration)
            .map_err(|source| EngineError::Cuda { source })?;
        tracing::info!(ordinal, "the weights are on the GPU");
        Ok(Self::Cuda {
            decoder: Box::new(decoder),
            scratch: SamplerScratch::default(),
            choices: Vec::new(),
        })
    }

    /// Changes the limits of later steps.
    pub(super) fn reconfigure(&mut self, configuration: &DecoderConfiguration) -> Result<(), EngineError> {
        match self {
            Self::Cpu { decoder, .. } => {
                decoder.reconfigure(configuration);
                Ok(())
            }
            Self::Cuda { decoder, .. } => decoder
                .reconfigure(configuration)
                .map_err(|source| EngineError::Cuda { source }),
        }
    }

    /// Computes a batch and chooses a token for each sampled row.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        scheduler: &mut Scheduler,
        chosen: &mut Vec<u32>,
    ) -> Result<(), EngineError> {
        let (logits, scratch) = match self {
            Self::Cpu { decoder, scratch } => {
                let logits = decoder.forward(batch);
                (logits.map_err(|source| EngineError::Decoder { source })?, scratch)
            }
            Self::Cuda {
                decoder,
                scratch,
                choices,
            } => {
                choices.clear();
                scheduler.for_each_sampler(|sampler| choices.extend(sampler.unfiltered()));
                if choices.len() == batch.sampled_rows() {
                    return choose_on_the_device(decoder, batch, choices, scheduler, chosen);
                }
                let logits = decoder.forward(batch);
                (logits.map_err(|source| EngineError::Cuda { source })?, scratch)
            }
        };
        scheduler.choose(chosen, |row, sequence, sampler| {
            let token = sampler.sample(logits.row(row), scratch);
            token.map_err(|source| EngineError::Choose { sequence, source })
        })
    }

    /// Work of all steps so far.
    pub(super) fn counts(&self) -> StepCounts {
        match self {
            Self::Cpu { decoder, .. } => decoder.counts(),
            Self::Cuda { decoder, .. } => decoder.counts(),
        }
    }

    /// Bytes of a block of the key-value cache in all layers.
    pub(super) fn block_bytes(&self) -> usize {
        match self {
            Self::Cpu { decoder, .. } => decoder.block_bytes(),
            Self::Cuda { decoder, .. } => decoder.block_bytes(),
        }
    }

    /// Bytes held.
    pub(super) fn memory(&self) -> DecoderMemory {
        match self {
            Self::Cpu { decoder, .. } => decoder.memory(),
            Self::Cuda { decoder, .. } => decoder.memory(),
        }
    }

    /// The type of most weights.
    pub(super) fn dominant_type(&self) -> ElementType {
        match self {
            Self::Cpu { decoder, .. } => decoder.dominant_type(),
            Self::Cuda { decoder, .. } => decoder.dominant_type(),
        }
    }
}

/// Only the tokens come back from the device.
fn choose_on_the_device(
    decoder: &mut CudaDecoder,
    batch: &Batch,
    choices: &[UnfilteredChoice],
    scheduler: &mut Scheduler,
    chosen: &mut Vec<u32>,
) -> Result<(), EngineError> {
    let tokens = decoder
        .choose(batch, choices)
        .map_err(|source| EngineError::Cuda { source })?;
    let vocabulary = decoder.architecture().vocabulary_size;
    scheduler.choose(chosen, |row, sequence, _| {
        tokens[row].ok_or(EngineError::Choose {
            sequence,
            source: SamplerError::NotNumbers { vocabulary },
        })
    })
}
