//! The kernels: their sources, names and arguments. Each structure here is laid out as its twin in `kernels/*.cu`.

use lem_engine::batch::BLOCK_POSITIONS;

/// Where something is in the memory of a device, in bytes; zero is nowhere.
pub type Address = u64;

/// Widest head that the attention kernels have room for.
pub const HEAD_LIMIT: usize = 256;
/// Rows up to which products of quantised matrices read their blocks; larger batches turn them into halves first.
pub const FEW_ROWS: usize = 8;
/// Spans into which the attention of a decoding row is split at most.
pub const SPANS: usize = 32;
/// Positions of such a span at least.
pub const SHORTEST_SPAN: usize = 128;
/// Queries of a tile of a prompt's attention.
pub const TILE: usize = 64;
/// The slot of a token whose keys and values are not to be written.
pub const NO_SLOT: u32 = u32::MAX;
/// What the sampler gives where no logit is a number.
pub const NO_TOKEN: u32 = u32::MAX;

const SOURCES: [&str; 8] = [
    include_str!("../kernels/prelude.cu"),
    include_str!("../kernels/norm.cu"),
    include_str!("../kernels/formats.cu"),
    include_str!("../kernels/elementwise.cu"),
    include_str!("../kernels/heads.cu"),
    include_str!("../kernels/decode_attention.cu"),
    include_str!("../kernels/prefill_attention.cu"),
    include_str!("../kernels/sample.cu"),
];

/// What the kernels are compiled for: extents of which the compiler makes registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Specialisation {
    /// Width of a head, a multiple of 16, at most [`HEAD_LIMIT`].
    pub head: usize,
    /// Query heads that share a key-value head.
    pub group: usize,
}

impl Specialisation {
    /// All sources, joined.
    pub fn source(&self) -> String {
        SOURCES.concat()
    }

    /// Macros, as `NAME=value`.
    pub fn defines(&self) -> Vec<String> {
        vec![format!("HEAD={}", self.head), format!("GROUP={}", self.group)]
    }

    /// Tiles of at most eight query heads into which a group is divided where rows decode.
    pub fn head_tiles(&self) -> usize {
        self.group.div_ceil(self.group.min(8))
    }

    /// Bytes of shared memory that [`AttendPrefill`] takes.
    pub fn prefill_shared(&self) -> usize {
        (TILE + 2 * BLOCK_POSITIONS) * (self.head + 8) * 2
    }

    /// Floats of the partial results of one query head of a decoding row.
    pub fn partial_floats(&self) -> usize {
        SPANS * (self.head + 2)
    }
}

/// Into how many spans the attention of a decoding row is split that sees so many positions.
pub fn spans(visible: usize) -> usize {
    let span = visible
        .div_ceil(SPANS)
        .next_multiple_of(BLOCK_POSITIONS)
        .max(SHORTEST_SPAN);
    visible.div_ceil(span)
}

/// The arguments of a kernel.
///
/// # Safety
/// The type is laid out as the structure that the kernel `NAME` takes.
#[expect(unsafe_code, reason = "the layout is a promise that the compiler cannot check")]
pub unsafe trait Kernel: Copy + 'static {
    /// Name in the sources.
    const NAME: &'static str;
    /// Threads of a block.
    const THREADS: u32;
}

/// Names of the kernels and implementations of [`Kernel`].
macro_rules! kernels {
    ($($kernel:ty = $name:literal, $threads:literal;)*) => {
        /// The names of all kernels.
        pub const NAMES: &[&str] = &[$($name),*];

        $(
            // SAFETY: the emulator's tests compare the sizes, and its results would be wrong with other offsets.
            #[expect(unsafe_code, reason = "the layouts were compared")]
            unsafe impl Kernel for $kernel {
                const NAME: &'static str = $name;
                const THREADS: u32 = $threads;
            }
        )*
    };
}

kernels! {
    AddAndNormalise = "add_and_normalise", 256;
    Embed = "embed", 128;
    Dequantise = "dequantise", 128;
    MultiplyFew<1> = "multiply_1", 128;
    MultiplyFew<2> = "multiply_2", 128;
    MultiplyFew<4> = "multiply_4", 128;
    MultiplyFew<8> = "multiply_8", 128;
    Gate = "gate", 256;
    Cap = "cap", 256;
    WriteHeads = "write_heads", 128;
    AttendDecode = "attend_decode", 128;
    MergeSpans = "merge_spans", 64;
    AttendPrefill = "attend_prefill", 128;
    Sample = "sample", 512;
}

/// Where the inputs of products go: in each type that a matrix after it reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ActivationAddresses {
    /// 32-bit floats.
    pub single: Address,
    /// IEEE half precision.
    pub half: Address,
    /// Brain floats.
    pub brain: Address,
}

/// Adds a branch to the residual stream and normalises the sum; a block for each row.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct AddAndNormalise {
    /// `[tokens][hidden]` floats, written unless rows are gathered.
    pub residual: Address,
    /// What is added, as the residual; or nowhere.
    pub branch: Address,
    /// Added to the branch.
    pub branch_bias: Address,
    /// Scale of the branch's own norm.
    pub branch_norm: Address,
    /// Scale of the norm; nowhere if only the addition is wanted.
    pub norm: Address,
    /// Which rows to read; nowhere for all in order.
    pub gather: Address,
    /// The normalised rows.
    pub output: ActivationAddresses,
    /// Width.
    pub hidden: u32,
    /// Epsilon of both norms.
    pub epsilon: f32,
}

/// Looks tokens up in the embedding matrix; a block for each token.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Embed {
    /// Tokens.
    pub tokens: Address,
    /// The matrix.
    pub embedding: Address,
    /// `[tokens][hidden]` floats.
    pub residual: Address,
    /// Bytes of a row of the matrix.
    pub row_bytes: u64,
    /// [`lem_engine::tensor::ElementType`] by its number.
    pub element_type: u32,
    /// Width, a multiple of 8.
    pub hidden: u32,
    /// Factor of the embeddings.
    pub scale: f32,
}

/// Turns a quantised matrix into halves; a block for each row.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Dequantise {
    /// The matrix.
    pub matrix: Address,
    /// `[rows][columns]` halves.
    pub output: Address,
    /// Bytes of a row of the matrix.
    pub row_bytes: u64,
    /// [`lem_engine::tensor::ElementType`] by its number.
    pub element_type: u32,
    /// Columns, a multiple of 8.
    pub columns: u32,
}

/// Multiplies a quantised matrix with at most `ROWS` rows of floats; a block for four outputs.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MultiplyFew<const ROWS: usize> {
    /// The matrix.
    pub matrix: Address,
    /// `[rows][columns]` floats.
    pub input: Address,
    /// Output `n` of row `r` goes to element `r * stride + n`.
    pub output: Address,
    /// Bytes of a row of the matrix.
    pub row_bytes: u64,
    /// [`lem_engine::tensor::ElementType`] by its number.
    pub element_type: u32,
    /// Rows of the matrix.
    pub outputs: u32,
    /// Columns, a multiple of 8.
    pub columns: u32,
    /// Elements from one row of the output to the next.
    pub stride: u32,
    /// Rows of the input.
    pub rows: u32,
}

/// The gate of the feed-forward network; blocks are (256 columns, token).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Gate {
    /// `[tokens][2 * width]` floats.
    pub branches: Address,
    /// `[tokens][width]`.
    pub output: ActivationAddresses,
    /// Width inside the network.
    pub width: u32,
    /// 1 for GELU, 0 for `SiLU`.
    pub gelu: u32,
}

/// `cap * tanh(value / cap)` in place; blocks are 256 values.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Cap {
    /// Floats.
    pub values: Address,
    /// How many.
    pub count: u64,
    /// The cap.
    pub cap: f32,
}

/// Biases, norms and positions of heads, keys and values into the cache; blocks are (token, four heads).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct WriteHeads {
    /// `[tokens][stride]` floats: queries, keys and values. The queries are written back.
    pub projected: Address,
    /// Added to all of them, or nowhere.
    pub bias: Address,
    /// Scale of the queries' norm, or nowhere.
    pub query_norm: Address,
    /// Scale of the keys' norm, or nowhere.
    pub key_norm: Address,
    /// `[positions][head / 2]` floats, or nowhere.
    pub cosines: Address,
    /// As the cosines.
    pub sines: Address,
    /// Of each token.
    pub positions: Address,
    /// Of each token: the place of its keys and values, or [`NO_SLOT`].
    pub slots: Address,
    /// The layer's part of the cache.
    pub cache: Address,
    /// Elements from one row of `projected` to the next.
    pub stride: u32,
    /// Query heads.
    pub query_heads: u32,
    /// Key-value heads.
    pub key_heads: u32,
    /// Epsilon of the norms.
    pub epsilon: f32,
    /// Factor of the queries.
    pub query_scale: f32,
}

/// A row of one token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DecodeRow {
    /// Which of the step's tokens it is.
    pub token: u32,
    /// Its position.
    pub position: u32,
    /// Where the sequence's blocks begin in the table.
    pub blocks: u32,
}

/// Attention of rows of one token; blocks are (key-value head and tile of its query heads, row, span).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct AttendDecode {
    /// `[tokens][stride]` floats.
    pub queries: Address,
    /// The layer's part of the cache.
    pub cache: Address,
    /// [`DecodeRow`]s.
    pub rows: Address,
    /// Blocks of all sequences.
    pub table: Address,
    /// Partial results.
    pub partials: Address,
    /// Elements from one row of `queries` to the next.
    pub stride: u32,
    /// Key-value heads.
    pub key_heads: u32,
    /// Positions that a query sees at most, its own included; 0 for all.
    pub window: u32,
    /// Cap of the scores; 0 for none.
    pub cap: f32,
}

/// Merges the spans of [`AttendDecode`]; blocks are (query head, row).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MergeSpans {
    /// [`DecodeRow`]s.
    pub rows: Address,
    /// Partial results.
    pub partials: Address,
    /// `[tokens][query heads * head]`.
    pub output: ActivationAddresses,
    /// Query heads.
    pub query_heads: u32,
    /// As [`AttendDecode::window`].
    pub window: u32,
}

/// Up to [`TILE`] queries of a prompt that read the same key-value head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PrefillTile {
    /// The sequence's first token in the step.
    pub token: u32,
    /// That token's position.
    pub start: u32,
    /// The sequence's tokens in the step.
    pub tokens: u32,
    /// Where its blocks begin in the table.
    pub blocks: u32,
    /// First query: token times group, plus the head in the group.
    pub first: u32,
}

/// Attention of the tokens of prompts; blocks are (tile, key-value head).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct AttendPrefill {
    /// `[tokens][stride]` floats.
    pub queries: Address,
    /// The layer's part of the cache.
    pub cache: Address,
    /// [`PrefillTile`]s.
    pub tiles: Address,
    /// Blocks of all sequences.
    pub table: Address,
    /// `[tokens][query heads * head]`.
    pub output: ActivationAddresses,
    /// Elements from one row of `queries` to the next.
    pub stride: u32,
    /// Key-value heads.
    pub key_heads: u32,
    /// As [`AttendDecode::window`].
    pub window: u32,
    /// Cap of the scores; 0 for none.
    pub cap: f32,
}

/// Chooses tokens; a block for each row.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Sample {
    /// `[rows][stride]` floats.
    pub logits: Address,
    /// Of each row, a float; 0 for the most probable token.
    pub temperatures: Address,
    /// Of each row, 64 bits.
    pub seeds: Address,
    /// Of each row, 32 bits: the number of the token in its sequence.
    pub steps: Address,
    /// The choices, or [`NO_TOKEN`].
    pub tokens: Address,
    /// Elements from one row of logits to the next.
    pub stride: u32,
    /// Logits of a row.
    pub vocabulary: u32,
}

#[cfg(test)]
mod tests;
