//! Finds GPUs and opens one.

use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::compile::{CompileError, ComputeCapability};

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A library is not installed.
    #[error("the library {name} was not found")]
    NoLibrary {
        /// Name without prefix and version.
        name: &'static str,
    },
    /// There is no GPU of this number.
    #[error("there is no GPU {ordinal}: the driver knows {found}")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        found: usize,
    },
    /// The kernels cannot be compiled.
    #[error("the kernels cannot be compiled")]
    Compile(#[from] CompileError),
    /// The driver refuses something.
    #[error("the CUDA driver failed")]
    Driver(#[from] DriverError),
    /// cublasLt refuses something.
    #[error("cublasLt failed")]
    Products(#[from] CublasError),
    /// A recording came to nothing.
    #[error("the driver recorded nothing")]
    EmptyRecording,
}

/// GPUs that the driver knows; none where there is no driver.
pub fn count() -> usize {
    if !driver_is_present() {
        return 0;
    }
    CudaContext::device_count().map_or(0, |count| count.max(0) as usize)
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn driver_is_present() -> bool {
    // SAFETY: the driver's initialisers have no requirements.
    unsafe { sys::is_culib_present() }
}

/// An open GPU.
#[derive(Debug)]
pub struct Device {
    /// Its primary context.
    pub context: Arc<CudaContext>,
    /// On which everything is launched.
    pub stream: Arc<CudaStream>,
    /// Its generation.
    pub capability: ComputeCapability,
}

impl Device {
    /// Opens the GPU of this number.
    ///
    /// # Errors
    /// The driver or a library is missing, there is no such GPU, or the driver refuses.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // Without a library the calls below would panic.
        if !driver_is_present() {
            return Err(DeviceError::NoLibrary { name: "cuda" });
        }
        if !products_are_present() {
            return Err(DeviceError::NoLibrary { name: "cublasLt" });
        }
        let found = count();
        if ordinal >= found {
            return Err(DeviceError::NoDevice { ordinal, found });
        }
        let context = CudaContext::new(ordinal)?;
        // Events between streams are of no use with one stream, and would be recorded.
        #[expect(unsafe_code, reason = "only one stream is ever used")]
        // SAFETY: all memory is used on one stream.
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream()?;
        let (major, minor) = context.compute_capability()?;
        keep_freed_memory(&context)?;
        Ok(Self {
            stream,
            capability: ComputeCapability(major.unsigned_abs(), minor.unsigned_abs()),
            context,
        })
    }
}

#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn products_are_present() -> bool {
    // SAFETY: the library's initialisers have no requirements.
    unsafe { cudarc::cublaslt::sys::is_culib_present() }
}

/// The pool gives freed memory back to the system at each synchronisation unless it is told otherwise.
#[expect(unsafe_code, reason = "the driver is a C library")]
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    // SAFETY: the device is open, and the attribute is 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_are_no_gpus_and_opening_one_names_the_library() {
        if driver_is_present() {
            return;
        }
        assert_eq!(count(), 0);
        assert_eq!(
            Device::open(0).unwrap_err().to_string(),
            "the library cuda was not found"
        );
    }
}
