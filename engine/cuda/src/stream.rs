//! A GPU as a device of the decoder: launches on its stream, recorded as CUDA graphs.

mod products;

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, result, sys};
use cudarc::nvrtc::Ptx;

use crate::backend::{Backend, Memory, Product};
use crate::compile::compile;
use crate::device::{Device, DeviceError};
use crate::kernels::{Address, Kernel, NAMES, Specialisation};
use products::Products;

/// Dynamic shared memory that a kernel may have without asking.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

/// A GPU with the kernels of a model.
#[derive(Debug)]
pub struct CudaBackend {
    kernels: HashMap<&'static str, CudaFunction>,
    products: Products,
    device: Device,
    /// What the compiler said of the kernels.
    log: String,
}

/// Memory of a GPU.
#[derive(Debug)]
pub struct CudaMemory {
    slice: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

/// Recorded launches.
pub struct Recording(CudaGraph);

#[expect(unsafe_code, reason = "the driver is a C library")]
// SAFETY: a graph is of no thread, but may not be used by two at once: only a `&mut` backend replays it.
unsafe impl Send for Recording {}

impl std::fmt::Debug for Recording {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Recording")
    }
}

impl Memory for CudaMemory {
    fn address(&self) -> Address {
        self.slice.device_ptr(&self.stream).0
    }

    fn bytes(&self) -> usize {
        self.slice.len()
    }
}

impl CudaBackend {
    /// Opens the GPU of this number and compiles the kernels for it.
    ///
    /// # Errors
    /// There is no such GPU, a library is missing, or the kernels are refused.
    pub fn new(ordinal: usize, specialisation: &Specialisation) -> Result<Self, DeviceError> {
        let device = Device::open(ordinal)?;
        let image = compile(specialisation, device.capability)?;
        let module = device.context.load_module(Ptx::from_binary(image.code))?;
        let mut kernels = HashMap::new();
        for name in NAMES {
            kernels.insert(*name, module.load_function(name)?);
        }
        let shared = specialisation.prefill_shared();
        if shared > SHARED_WITHOUT_ASKING
            && let Some(kernel) = kernels.get(<crate::kernels::AttendPrefill as Kernel>::NAME)
        {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, i32::try_from(shared).unwrap_or(i32::MAX))?;
        }
        Ok(Self {
            products: Products::new(&device.stream)?,
            kernels,
            device,
            log: image.log,
        })
    }

    /// Name of the GPU.
    ///
    /// # Errors
    /// The driver does not tell.
    pub fn name(&self) -> Result<String, DeviceError> {
        Ok(self.device.context.name()?)
    }

    /// What the compiler said of the kernels: registers, shared memory and spills of each.
    pub fn compiler_log(&self) -> &str {
        &self.log
    }
}

#[expect(unsafe_code, reason = "the driver is a C library, and kernels get addresses")]
impl Backend for CudaBackend {
    type Error = DeviceError;
    type Memory = CudaMemory;
    type Graph = Recording;

    fn allocate(&self, bytes: usize) -> Result<CudaMemory, DeviceError> {
        // SAFETY: bytes of any value are bytes; kernels read nothing that was not written, or drop it.
        let slice = unsafe { self.device.stream.alloc::<u8>(bytes.max(1)) }?;
        Ok(CudaMemory {
            slice,
            stream: self.device.stream.clone(),
        })
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: the decoder gives addresses of its memory. The driver has read the bytes when this returns, since
        // they are not pinned.
        Ok(unsafe { result::memcpy_htod_async(to, bytes, self.device.stream.cu_stream()) }?)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.device.stream.cu_stream()) }?;
        Ok(self.device.stream.synchronize()?)
    }

    fn launch<K: Kernel>(&mut self, grid: [u32; 3], shared: usize, arguments: &K) -> Result<(), DeviceError> {
        let mut arguments = *arguments;
        let mut parameters = [(&raw mut arguments).cast()];
        let kernel = &self.kernels[K::NAME];
        self.device.context.bind_to_thread()?;
        // SAFETY: the kernel takes one structure, laid out as `K`; the driver copies it before it returns.
        Ok(unsafe {
            result::launch_kernel(
                kernel.cu_function(),
                (grid[0], grid[1], grid[2]),
                (K::THREADS, 1, 1),
                shared as u32,
                self.device.stream.cu_stream(),
                &mut parameters,
            )
        }?)
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        self.device.context.bind_to_thread()?;
        self.products.multiply(product, &self.device.stream)
    }

    fn records(&self) -> bool {
        true
    }

    fn begin_recording(&mut self) -> Result<(), DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        Ok(self.device.stream.begin_capture(mode)?)
    }

    fn end_recording(&mut self) -> Result<Recording, DeviceError> {
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self
            .device
            .stream
            .end_capture(flags)?
            .ok_or(DeviceError::EmptyRecording)?;
        graph.upload()?;
        Ok(Recording(graph))
    }

    fn replay(&mut self, recording: &Recording) -> Result<(), DeviceError> {
        Ok(recording.0.launch()?)
    }
}
