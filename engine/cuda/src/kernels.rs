//! The kernels: their sources, names and arguments. Each structure here is laid out as its twin in `kernels/*.cu`.

/// Where something is in the memory of a device, in bytes; zero is nowhere.
pub type Address = u64;

const SOURCES: [&str; 2] = [
    include_str!("../kernels/prelude.cu"),
    include_str!("../kernels/norm.cu"),
];

/// The names of all kernels.
pub const NAMES: [&str; 1] = [AddAndNormalise::NAME];

/// What the kernels are compiled for: extents of which the compiler makes registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Specialisation {
    /// Width of a head, a multiple of 16.
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
}

/// The arguments of a kernel.
///
/// # Safety
/// The type is laid out as the structure that the kernel `NAME` takes.
#[expect(unsafe_code, reason = "the layout is a promise that the compiler cannot check")]
pub unsafe trait Kernel: Copy {
    /// Name in the sources.
    const NAME: &'static str;
    /// Threads of a block.
    const THREADS: u32;
}

macro_rules! kernels {
    ($($(#[$attribute:meta])* $kernel:ident = $name:literal, $threads:literal)*) => {$(
        $(#[$attribute])*
        // SAFETY: the emulator's tests compare the sizes, and its results would be wrong with other offsets.
        #[expect(unsafe_code, reason = "the layouts were compared")]
        unsafe impl Kernel for $kernel {
            const NAME: &'static str = $name;
            const THREADS: u32 = $threads;
        }
    )*};
}

kernels! {
    AddAndNormalise = "add_and_normalise", 256
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

#[cfg(test)]
mod tests;
