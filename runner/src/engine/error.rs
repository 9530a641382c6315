//! Errors of loading and running a model.

use std::path::PathBuf;

use lem_engine::decoder::DecoderError;
use lem_engine::scheduler::SubmitError;
use lem_engine::source::SourceError;
use lem_engine_cuda::compile::CompileError;
use lem_engine_cuda::decoder::ForwardError;
use lem_engine_cuda::device::DeviceError;

use super::TokenizerError;
use super::architecture::ArchitectureError;
use super::header::HeaderError;
use super::source::SourceError as ModelSourceError;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The source could not be resolved to files.
    #[error("resolving the model source failed")]
    Source {
        /// Cause.
        #[source]
        source: ModelSourceError,
    },
    /// A file could not be read.
    #[error("reading {} failed", path.display())]
    ReadFile {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A weight file's header is not acceptable.
    #[error("{} is not a usable weight file", path.display())]
    Header {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: HeaderError,
    },
    /// The model's architecture is not supported or its configuration is not usable.
    #[error("the architecture of {origin} cannot be used")]
    Architecture {
        /// File or preset.
        origin: String,
        /// Cause.
        #[source]
        source: ArchitectureError,
    },
    /// The weights do not have a tensor that the architecture needs, or it has another shape.
    #[error("{}: tensor {tensor:?} should have the shape {expected:?}, but {found}", path.display())]
    Tensor {
        /// File or directory.
        path: PathBuf,
        /// Tensor.
        tensor: String,
        /// Shape that follows from the architecture.
        expected: Vec<usize>,
        /// What there is instead.
        found: String,
    },
    /// The tokenizer could not be built.
    #[error("building the tokenizer failed")]
    Tokenizer {
        /// Cause.
        #[source]
        source: TokenizerError,
    },
    /// The device that was asked for is not there.
    #[error("the device {device} is not available")]
    Device {
        /// Device.
        device: String,
        /// Cause.
        #[source]
        source: candle_core::Error,
    },
    /// The combination of weights and element type is not offered.
    #[error("{what} cannot be held as {dtype}")]
    WeightType {
        /// The weights.
        what: String,
        /// Element type asked for.
        dtype: &'static str,
    },
    /// Building the model from checked files failed.
    #[error("loading the weights of {origin} failed")]
    Load {
        /// File, directory or preset.
        origin: String,
        /// Cause.
        #[source]
        source: candle_core::Error,
    },
    /// A token of the prompt is outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary_size}")]
    UnknownToken {
        /// Token.
        token: u32,
        /// Entries of the vocabulary.
        vocabulary_size: usize,
    },
    /// The engine does not have what was asked for.
    #[error("{what}")]
    Unsupported {
        /// What, and what to do instead.
        what: String,
    },
    /// The files hold tensors that lem's own engine cannot compute with.
    #[error("lem's own engine cannot use the weights of {origin}")]
    Tensors {
        /// File, directory or preset.
        origin: String,
        /// Cause.
        #[source]
        source: SourceError,
    },
    /// lem's own engine could not be built, or a step not be computed.
    #[error("lem's own engine failed")]
    Decoder {
        /// Cause.
        #[source]
        source: DecoderError,
    },
    /// lem's own engine could not be built on a GPU, or a step not be computed there.
    #[error("lem's own engine failed on the GPU")]
    Cuda {
        /// Cause.
        #[source]
        source: ForwardError<DeviceError>,
    },
    /// A sequence was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No token can be chosen.
    #[error("no token can be chosen for sequence {sequence}")]
    Choose {
        /// The sequence's id.
        sequence: u64,
        /// Cause.
        #[source]
        source: lem_engine::sampler::SamplerError,
    },
    /// A forward pass failed.
    #[error("a forward pass over {tokens} tokens at position {position} failed")]
    Forward {
        /// Tokens in the pass.
        tokens: usize,
        /// Position of the first of them.
        position: usize,
        /// Cause.
        #[source]
        source: candle_core::Error,
    },
    /// Choosing a token from the logits failed.
    #[error("choosing a token from the logits failed")]
    Sample {
        /// Cause.
        #[source]
        source: candle_core::Error,
    },
    /// Waiting for the device failed.
    #[error("waiting for the device failed")]
    Synchronize {
        /// Cause.
        #[source]
        source: candle_core::Error,
    },
}

impl EngineError {
    /// Whether another implementation may have what this one lacks.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.category() == "unsupported"
    }

    /// A fixed name for metrics and event reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Source { source } => source.category(),
            Self::ReadFile { .. } => "read_file",
            Self::Header { .. } => "weight_header",
            Self::Architecture {
                source: ArchitectureError::Unsupported { .. },
                ..
            } => "unsupported_architecture",
            Self::Architecture { .. } => "architecture",
            Self::Tokenizer { .. } => "tokenizer",
            Self::Device { .. } => "device",
            Self::WeightType { .. } => "weight_type",
            Self::Load { .. } => "load",
            Self::Submit(SubmitError::ContextExceeded { .. }) => "context_exceeded",
            Self::UnknownToken { .. } => "unknown_token",
            Self::Submit(SubmitError::Empty { .. }) => "empty_request",
            Self::Submit(SubmitError::NoFreeSlot { .. }) => "no_free_slot",
            Self::Submit(SubmitError::CacheExceeded { .. }) => "submit",
            Self::Cuda { source } => cuda_category(source),
            // What the file holds is the experiment's fault, what the system or a step lacks is the moment's.
            Self::Unsupported { .. }
            | Self::Tensors {
                source: SourceError::ElementType { .. },
                ..
            } => "unsupported",
            Self::Tensor { .. }
            | Self::Tensors {
                source: SourceError::OutOfFile { .. },
                ..
            } => "tensor",
            Self::Decoder { source } => decoder_category(source),
            Self::Forward { .. } => "forward",
            Self::Choose { .. } | Self::Sample { .. } => "sample",
            Self::Synchronize { .. } => "synchronize",
        }
    }
}

const fn decoder_category(error: &DecoderError) -> &'static str {
    match error {
        DecoderError::HeadDimension { .. } => "unsupported",
        DecoderError::Missing { .. } | DecoderError::Shape { .. } | DecoderError::Bytes { .. } => "tensor",
        DecoderError::Thread { .. } | DecoderError::Batch { .. } => "decoder",
    }
}

const fn cuda_category(error: &ForwardError<DeviceError>) -> &'static str {
    match error {
        ForwardError::Decoder(source) => decoder_category(source),
        ForwardError::Columns { .. } | ForwardError::CacheType { .. } => "unsupported",
        ForwardError::Device { source } => match source {
            DeviceError::NoLibrary { .. }
            | DeviceError::NoDevice { .. }
            | DeviceError::Compile(CompileError::NoCompiler | CompileError::Capability { .. }) => "device",
            _ => "decoder",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_file_is_refused_and_a_fault_of_the_moment_is_tried_again() {
        let refused = |error: EngineError| {
            let category = error.category().to_owned();
            lem_crds::runner::RunnerError {
                category,
                message: String::new(),
            }
            .is_refusal()
        };
        let decoder = |source| EngineError::Decoder { source };
        let missing = DecoderError::Missing {
            tensor: "lm_head.weight".to_owned(),
        };
        assert!(refused(decoder(missing)));
        assert!(refused(decoder(DecoderError::HeadDimension { found: 40, limit: 256 })));
        let source = std::io::ErrorKind::OutOfMemory.into();
        assert!(!refused(decoder(DecoderError::Thread { source })));
        let unknown = SourceError::ElementType {
            tensor: "lm_head.weight".to_owned(),
            element_type: "IQ2_XS".to_owned(),
        };
        let origin = "model.gguf".to_owned();
        assert!(refused(EngineError::Tensors {
            origin,
            source: unknown
        }));
    }
}
