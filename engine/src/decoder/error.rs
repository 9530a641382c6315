//! Why a decoder cannot be built or a step not be computed.

/// Why a decoder cannot be built or a step not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The source lacks a tensor.
    #[error("the model has no tensor {tensor:?}")]
    Missing {
        /// Name in safetensors files.
        tensor: String,
    },
    /// A tensor has another shape.
    #[error("tensor {tensor:?} has the shape {found:?}, not {expected:?}")]
    Shape {
        /// Name in safetensors files.
        tensor: String,
        /// Rows and columns that the architecture asks for.
        expected: [usize; 2],
        /// Rows and columns.
        found: [usize; 2],
    },
    /// A tensor's bytes are not what its shape and type ask for.
    #[error("tensor {tensor:?} has {found} bytes, which its shape and type do not fit")]
    Bytes {
        /// Name in safetensors files.
        tensor: String,
        /// Bytes.
        found: usize,
    },
    /// The attention computes heads of whole vectors only.
    #[error("heads of {found} elements are not supported: a multiple of 16, at most {limit}")]
    HeadDimension {
        /// Elements.
        found: usize,
        /// Most elements.
        limit: usize,
    },
    /// The system gives no thread.
    #[error("a thread of the engine cannot be started")]
    Thread {
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A batch exceeds what the decoder was built for.
    #[error("the step's {what}: {found}, more than {limit}")]
    Batch {
        /// What is too large.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The largest possible.
        limit: usize,
    },
}
