//! CUDA C++ to machine code for one GPU, by NVRTC. It needs neither a GPU nor a driver.
//!
//! Machine code (a cubin), not PTX: a driver refuses PTX of a CUDA that is newer than itself, and compiles it anew for
//! each process.

use std::ffi::{CStr, CString, c_char};

use cudarc::nvrtc::result::{NvrtcError, compile_program, create_program, destroy_program, get_program_log};
use cudarc::nvrtc::sys;

use crate::kernels::Specialisation;

/// Generation of a GPU: major and minor compute capability, for example 9 and 0 of an H100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComputeCapability(pub u32, pub u32);

/// The oldest that the kernels are written for: the first with brain floats in its tensor cores.
pub const OLDEST: ComputeCapability = ComputeCapability(8, 0);

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

/// Machine code of all kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// A cubin.
    pub code: Vec<u8>,
    /// What the compiler said: registers, shared memory and spills of each kernel.
    pub log: String,
}

/// Why kernels cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// NVRTC is not installed.
    #[error("the library libnvrtc, which compiles the kernels, was not found")]
    NoCompiler,
    /// The GPU is too old.
    #[error("the GPU has the compute capability {found}; the kernels need {OLDEST} at least")]
    Capability {
        /// The GPU's.
        found: ComputeCapability,
    },
    /// A source is not text that a C compiler takes.
    #[error("the kernels' source has a zero byte")]
    Source {
        /// Cause.
        #[source]
        source: std::ffi::NulError,
    },
    /// NVRTC refuses the kernels.
    #[error("NVRTC cannot compile the kernels: {log}")]
    Refused {
        /// What it said.
        log: String,
        /// Cause.
        #[source]
        source: NvrtcError,
    },
    /// NVRTC fails in another way.
    #[error("NVRTC failed")]
    Nvrtc {
        /// Cause.
        #[source]
        source: NvrtcError,
    },
}

/// Whether NVRTC can be loaded.
#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
pub fn compiler_is_present() -> bool {
    // SAFETY: NVRTC's initialisers have no requirements.
    unsafe { sys::is_culib_present() }
}

/// Compiles the kernels for a model and a GPU.
///
/// # Errors
/// NVRTC is missing or refuses the kernels, or the GPU is too old.
pub fn compile(specialisation: &Specialisation, capability: ComputeCapability) -> Result<Image, CompileError> {
    compile_source(&specialisation.source(), &specialisation.defines(), capability)
}

/// Compiles any source.
fn compile_source(source: &str, defines: &[String], capability: ComputeCapability) -> Result<Image, CompileError> {
    if capability < OLDEST {
        return Err(CompileError::Capability { found: capability });
    }
    // Without the library the calls below would panic.
    if !compiler_is_present() {
        return Err(CompileError::NoCompiler);
    }
    let source = CString::new(source).map_err(|source| CompileError::Source { source })?;
    let mut options = vec![
        format!("--gpu-architecture=sm_{}{}", capability.0, capability.1),
        "--std=c++17".to_owned(),
        "--ptxas-options=-v".to_owned(),
    ];
    options.extend(defines.iter().map(|define| format!("--define-macro={define}")));
    let program = Program::new(&source)?;
    program.compile(&options)?;
    Ok(Image {
        code: program.code()?,
        log: program.log(),
    })
}

/// A program of NVRTC; it is destroyed when it is dropped.
struct Program<'source> {
    program: sys::nvrtcProgram,
    /// NVRTC may keep pointers to it.
    _source: &'source CStr,
}

impl<'source> Program<'source> {
    fn new(source: &'source CStr) -> Result<Self, CompileError> {
        let program = create_program(source, Some(c"kernels.cu")).map_err(|source| CompileError::Nvrtc { source })?;
        Ok(Self {
            program,
            _source: source,
        })
    }

    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    fn compile(&self, options: &[String]) -> Result<(), CompileError> {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        // SAFETY: the program lives.
        unsafe { compile_program(self.program, &options) }.map_err(|source| CompileError::Refused {
            log: self.log(),
            source,
        })
    }

    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    fn log(&self) -> String {
        // SAFETY: the program lives.
        let log = unsafe { get_program_log(self.program) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|letter| letter.cast_unsigned()).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned()
    }

    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    fn code(&self) -> Result<Vec<u8>, CompileError> {
        let failed = |source| CompileError::Nvrtc { source };
        let mut size = 0;
        // SAFETY: the program lives, and the memory has the size that NVRTC asks for.
        unsafe {
            sys::nvrtcGetCUBINSize(self.program, &raw mut size)
                .result()
                .map_err(failed)?;
            let mut code = vec![0_u8; size];
            sys::nvrtcGetCUBIN(self.program, code.as_mut_ptr().cast::<c_char>())
                .result()
                .map_err(failed)?;
            Ok(code)
        }
    }
}

impl Drop for Program<'_> {
    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    fn drop(&mut self) {
        // SAFETY: the program lives until here. There is nothing to do about an error.
        let _ = unsafe { destroy_program(self.program) };
    }
}

#[cfg(test)]
mod tests;
