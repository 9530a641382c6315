//! Checks of weight files before anything else parses them.
//!
//! A weight file comes from outside. These checks read only the header, allocate no more than a bound derived from the
//! file's length, and turn every defect into a [`HeaderError`] that says what is wrong. What passes can be handed to
//! candle without a panic or an unbounded allocation.

mod gguf;
mod safetensors;

pub use gguf::{GgufHeader, GgufTensorType, MetadataValue, validate_gguf};
pub use safetensors::{SafetensorsHeader, validate_safetensors};

/// One tensor as the header of a weight file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRecord {
    /// Name in the file, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Extents, outermost first: a weight matrix is `[output features, input features]`.
    pub shape: Vec<usize>,
    /// Element type as the file format spells it, for example `Q4_1` or `BF16`.
    pub element_type: String,
    /// Bytes that the tensor takes in the file.
    pub bytes: u64,
    /// Byte of the file at which the tensor begins.
    pub offset: u64,
}

impl TensorRecord {
    /// Number of elements; the header's check has excluded an overflow.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&extent| extent as u64).product()
    }
}

/// What is wrong with a weight file's header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file ended inside the header, or the header could not be read.
    #[error("reading {what} failed: the file is truncated or unreadable")]
    Read {
        /// The part being read.
        what: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin with the format's magic bytes.
    #[error("not a {format} file: it begins with {found:02x?}")]
    Magic {
        /// Expected format.
        format: &'static str,
        /// First bytes of the file.
        found: Vec<u8>,
    },
    /// A version of the format that is not supported.
    #[error("{format} version {version} is not supported (supported: {supported})")]
    Version {
        /// Format.
        format: &'static str,
        /// Version found.
        version: u32,
        /// Versions supported.
        supported: &'static str,
    },
    /// A count, length or size that the file cannot hold or that exceeds a limit.
    #[error("{what} is {found}, more than the limit of {limit}")]
    TooLarge {
        /// The quantity.
        what: String,
        /// Value in the file.
        found: u64,
        /// Largest value accepted.
        limit: u64,
    },
    /// A value that the format does not allow.
    #[error("{what}")]
    Invalid {
        /// What was found and where.
        what: String,
    },
    /// A tensor's bytes do not lie within the file.
    #[error("tensor {name:?} needs bytes {start}..{end}, but the file has {length}: it is truncated or corrupted")]
    OutOfFile {
        /// Tensor.
        name: String,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Length of the file in bytes.
        length: u64,
    },
    /// The header of a safetensors file is not the JSON that the format asks for.
    #[error("the safetensors header is not valid JSON of the expected form")]
    Json {
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
}
