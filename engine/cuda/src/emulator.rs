//! Runs the kernels on the host: their sources are compiled by g++ below `kernels/emulator.hpp` and loaded.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use libloading::Library;

use crate::kernels::{Kernel, Specialisation};

/// Loads NVRTC from the directory that `LEM_NVRTC_DIRECTORY` names, if it does; says so loudly if there is none.
#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
pub(crate) fn load_compiler() -> bool {
    static LIBRARIES: OnceLock<Vec<Library>> = OnceLock::new();
    // A library that is loaded already is found by its name, whatever the search path: cudarc asks for that name.
    let libraries = LIBRARIES.get_or_init(|| {
        let Some(directory) = std::env::var_os("LEM_NVRTC_DIRECTORY") else {
            return Vec::new();
        };
        let names = ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"];
        // SAFETY: NVRTC's initialisers have no requirements.
        let load = |name| unsafe { Library::new(Path::new(&directory).join(name)).ok() };
        names.into_iter().filter_map(load).collect()
    });
    let present = !libraries.is_empty() || crate::compile::compiler_is_present();
    if !present {
        eprintln!("SKIPPED: no NVRTC; `make nvrtc` fetches it, LEM_NVRTC_DIRECTORY says where it is");
    }
    present
}

/// The kernels of a specialisation, on the host.
pub(crate) struct Emulator {
    library: Library,
    // The library was loaded from it.
    _directory: tempfile::TempDir,
}

impl Emulator {
    /// The emulator of a specialisation; each is compiled once.
    pub(crate) fn of(specialisation: Specialisation) -> Arc<Self> {
        type Slot = Arc<OnceLock<Arc<Emulator>>>;
        static EMULATORS: OnceLock<Mutex<HashMap<Specialisation, Slot>>> = OnceLock::new();
        let slot = EMULATORS
            .get_or_init(Mutex::default)
            .lock()
            .unwrap()
            .entry(specialisation)
            .or_default()
            .clone();
        slot.get_or_init(|| Arc::new(Self::compile(specialisation))).clone()
    }

    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    fn compile(specialisation: Specialisation) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (source, output) = (
            directory.path().join("kernels.cpp"),
            directory.path().join("kernels.so"),
        );
        let text = include_str!("../kernels/emulator.hpp").to_owned() + &specialisation.source();
        std::fs::write(&source, text).unwrap();
        // Contraction of products and sums as the GPU does it would make results depend on the host's compiler.
        let flags = [
            "-std=c++17",
            "-O2",
            "-ffp-contract=off",
            "-shared",
            "-fPIC",
            "-Wno-unknown-pragmas",
        ];
        let defines = specialisation.defines().into_iter().map(|define| format!("-D{define}"));
        let result = Command::new("g++")
            .args(flags)
            .args(defines)
            .arg(&source)
            .arg("-o")
            .arg(&output)
            .output();
        let result = result.expect("the tests need g++; `make setup` installs it");
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        Self {
            // SAFETY: the library has just been made of our sources and has no initialisers with requirements.
            library: unsafe { Library::new(&output).unwrap() },
            _directory: directory,
        }
    }

    /// Runs a kernel to its end.
    #[expect(unsafe_code, reason = "the kernel is C++")]
    pub(crate) fn launch<K: Kernel>(&self, grid: [u32; 3], shared: u32, arguments: &K) {
        type Launch<K> = unsafe extern "C" fn(*const u32, u32, u32, *const K);
        // SAFETY: this is how the emulator's macro declares kernels, and the sizes are compared. What the arguments
        // point to is the test's business.
        unsafe {
            let size = self
                .library
                .get::<unsafe extern "C" fn() -> u32>(format!("{}_size", K::NAME))
                .unwrap();
            assert_eq!(size() as usize, size_of::<K>(), "{} has another layout", K::NAME);
            let launch = self.library.get::<Launch<K>>(K::NAME).unwrap();
            launch(grid.as_ptr(), K::THREADS, shared, arguments);
        }
    }
}
