//! What a decoder needs of a device: memory, kernels and products of matrices of floats.
//!
//! There are two: the stream of a GPU, and the emulator of the tests. The decoder is a list of launches over either.

use lem_engine::tensor::ElementType;

use crate::kernels::{Address, Kernel};

/// A product of floats: `output[r][n] = Σ input[r][k] · matrix[n][k]`, summed in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Type of the matrix and the input: 32-bit floats, halves or brain floats.
    pub element_type: ElementType,
    /// `[outputs][columns]`.
    pub matrix: Address,
    /// `[rows][columns]`.
    pub input: Address,
    /// 32-bit floats: output `n` of row `r` goes to element `r * stride + n`.
    pub output: Address,
    /// Rows of the input.
    pub rows: usize,
    /// Rows of the matrix.
    pub outputs: usize,
    /// Columns of both.
    pub columns: usize,
    /// Elements from one row of the output to the next.
    pub stride: usize,
}

/// A device. What is launched happens in order, some time later; only downloads wait for it.
pub trait Backend {
    /// Why the device cannot do something.
    type Error: std::error::Error + Send + Sync + 'static;
    /// Memory; it is given back when it is dropped.
    type Memory: Memory;
    /// Recorded launches.
    type Graph;

    /// Takes so many bytes, whose content is not defined.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, Self::Error>;

    /// Copies to the device.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies from the device, after all that was launched before.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Launches a kernel with so many blocks and bytes of dynamic shared memory.
    fn launch<K: Kernel>(&mut self, grid: [u32; 3], shared: usize, arguments: &K) -> Result<(), Self::Error>;

    /// Multiplies.
    fn multiply(&mut self, product: &Product) -> Result<(), Self::Error>;

    /// Whether launches can be recorded.
    fn records(&self) -> bool;

    /// From here on launches are recorded, not done.
    fn begin_recording(&mut self) -> Result<(), Self::Error>;

    /// Ends the recording.
    fn end_recording(&mut self) -> Result<Self::Graph, Self::Error>;

    /// Does what was recorded.
    fn replay(&mut self, graph: &Self::Graph) -> Result<(), Self::Error>;
}

/// Memory of a device.
pub trait Memory {
    /// Where it begins, a multiple of 256.
    fn address(&self) -> Address;
    /// Its extent.
    fn bytes(&self) -> usize;
}
