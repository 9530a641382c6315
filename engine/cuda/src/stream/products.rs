//! Products of floats by cublasLt, with the algorithm that its heuristic chooses for each shape.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::cublas::sys::cublasOperation_t;
use cudarc::cublaslt::result::{
    create_handle, create_matmul_desc, create_matmul_pref, create_matrix_layout, destroy_handle, destroy_matmul_desc,
    destroy_matmul_pref, destroy_matrix_layout, get_matmul_algo_heuristic, matmul, set_matmul_desc_attribute,
    set_matmul_pref_attribute,
};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use lem_engine::tensor::ElementType;

use crate::backend::Product;
use crate::device::DeviceError;

/// Scratch memory for algorithms; 32 MiB is what NVIDIA recommends for Hopper.
const SCRATCH: usize = 32 << 20;

/// What an algorithm is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    element_type: ElementType,
    rows: usize,
    outputs: usize,
    columns: usize,
    stride: usize,
    /// Addresses that are less aligned allow fewer algorithms: both matrix and output, in bytes up to 256.
    alignment: u32,
}

/// The plans of all shapes so far.
#[derive(Debug)]
pub(super) struct Products {
    plans: HashMap<Shape, Plan>,
    scratch: CudaSlice<u8>,
    handle: Handle,
}

#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);

#[expect(unsafe_code, reason = "cublasLt is a C library")]
// SAFETY: cublasLt's objects are of no thread; what uses them has them exclusively.
unsafe impl Send for Handle {}

impl Drop for Handle {
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: it has lived until here. There is nothing to do about an error.
        let _ = unsafe { destroy_handle(self.0) };
    }
}

/// Descriptions of the matrices, and how to multiply them.
#[derive(Debug)]
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

#[expect(unsafe_code, reason = "cublasLt is a C library")]
// SAFETY: as for the handle.
unsafe impl Send for Plan {}

impl Drop for Plan {
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: they have lived until here. There is nothing to do about an error.
        unsafe {
            let _ = destroy_matmul_desc(self.description);
            for layout in self.layouts {
                let _ = destroy_matrix_layout(layout);
            }
        }
    }
}

impl Products {
    #[expect(unsafe_code, reason = "scratch memory holds nothing at first")]
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        Ok(Self {
            handle: Handle(create_handle()?),
            // SAFETY: bytes of any value are bytes.
            scratch: unsafe { stream.alloc(SCRATCH) }?,
            plans: HashMap::new(),
        })
    }

    /// cublasLt's matrices go down columns: what is `[rows][columns]` here is its transpose there. So the product is
    /// outputᵀ = matrix · inputᵀ, with the matrix transposed.
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    pub(super) fn multiply(&mut self, product: &Product, stream: &Arc<CudaStream>) -> Result<(), DeviceError> {
        let shape = Shape {
            element_type: product.element_type,
            rows: product.rows,
            outputs: product.outputs,
            columns: product.columns,
            stride: product.stride,
            alignment: alignment(product.matrix | product.output | product.input),
        };
        if !self.plans.contains_key(&shape) {
            let plan = Plan::new(self.handle.0, &shape)?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (scratch, _guard) = self.scratch.device_ptr(stream);
        // SAFETY: the decoder gives addresses of matrices of these extents; the plan is of their shape.
        unsafe {
            matmul(
                self.handle.0,
                plan.description,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                product.matrix as *const _,
                plan.layouts[0],
                product.input as *const _,
                plan.layouts[1],
                product.output as *const _,
                plan.layouts[2],
                product.output as *mut _,
                plan.layouts[2],
                &raw const plan.algorithm,
                scratch as *mut _,
                SCRATCH,
                stream.cu_stream().cast(),
            )?;
        }
        Ok(())
    }
}

/// The largest power of two that divides all of the addresses, 256 at most.
fn alignment(addresses: u64) -> u32 {
    1 << addresses.trailing_zeros().min(8)
}

impl Plan {
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    fn new(handle: sys::cublasLtHandle_t, shape: &Shape) -> Result<Self, DeviceError> {
        let data = match shape.element_type {
            ElementType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            ElementType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let single = sys::cudaDataType_t::CUDA_R_32F;
        let (rows, outputs, columns) = (shape.rows as u64, shape.outputs as u64, shape.columns as u64);
        let (stride, width) = ((shape.stride as u64).cast_signed(), columns.cast_signed());
        // Products of 32-bit floats are computed as such: TF32 would keep ten bits of them.
        let description = create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, single)?;
        // From here on what exists is destroyed with the plan, whatever fails.
        let mut plan = Self {
            description,
            layouts: [std::ptr::null_mut(); 3],
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.layouts = [
            create_matrix_layout(data, columns, outputs, width)?,
            create_matrix_layout(data, columns, rows, width)?,
            create_matrix_layout(single, outputs, rows, stride)?,
        ];
        let transposed = cublasOperation_t::CUBLAS_OP_T;
        // SAFETY: the handles live, and the attributes have these types.
        unsafe {
            set_matmul_desc_attribute(
                description,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )?;
            let preference = Preference::new(shape.alignment)?;
            plan.algorithm = get_matmul_algo_heuristic(
                handle,
                description,
                plan.layouts[0],
                plan.layouts[1],
                plan.layouts[2],
                plan.layouts[2],
                preference.0,
            )?
            .algo;
        }
        Ok(plan)
    }
}

/// What the heuristic may choose.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    fn new(alignment: u32) -> Result<Self, DeviceError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(create_matmul_pref()?);
        let set = |attribute, value: *const std::ffi::c_void, size| {
            // SAFETY: the preference lives, and the value has this size.
            unsafe { set_matmul_pref_attribute(preference.0, attribute, value, size) }
        };
        let scratch = SCRATCH;
        set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const scratch).cast(),
            size_of_val(&scratch),
        )?;
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            set(attribute, (&raw const alignment).cast(), size_of_val(&alignment))?;
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    #[expect(unsafe_code, reason = "cublasLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: it has lived until here. There is nothing to do about an error.
        let _ = unsafe { destroy_matmul_pref(self.0) };
    }
}
