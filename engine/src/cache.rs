//! The memory of the paged key-value cache. Which block belongs to whom is the scheduler's business.

use half::f16;

use crate::batch::BLOCK_POSITIONS;
use crate::kernels::attention::CacheElement;

/// Element type of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats, for weights of 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
}

impl CacheType {
    /// Name, for example `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => f32::NAME,
            Self::F16 => f16::NAME,
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Extents of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    pub(crate) blocks: usize,
    pub(crate) heads: usize,
    pub(crate) dimension: usize,
}

impl CacheShape {
    /// Elements of one head in one block: keys, then values.
    pub(crate) const fn head_stride(&self) -> usize {
        2 * self.dimension * BLOCK_POSITIONS
    }

    /// Elements of one block of one layer.
    pub(crate) const fn block_stride(&self) -> usize {
        self.heads * self.head_stride()
    }

    /// Elements of one layer.
    pub(crate) const fn layer_stride(&self) -> usize {
        self.blocks * self.block_stride()
    }

    /// Elements of all layers.
    pub(crate) const fn elements(&self) -> usize {
        self.layers * self.layer_stride()
    }
}

/// The keys and values of all layers, in one allocation each. Untouched blocks take no memory: the system gives zeroed
/// pages when they are first written.
#[derive(Debug)]
pub(crate) enum Cache {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl Cache {
    pub(crate) fn new(element: CacheType, shape: CacheShape) -> Self {
        match element {
            CacheType::F32 => Self::F32(vec![0.0; shape.elements()]),
            CacheType::F16 => Self::F16(vec![0; shape.elements()]),
        }
    }
}
