//! Runs the kernels on the host: their sources are compiled by g++ below `kernels/emulator.hpp` and loaded.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use lem_engine::tensor::dequantise;
use libloading::Library;

use crate::backend::{Backend, Memory, Product};
use crate::kernels::{Address, Kernel, Specialisation};

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

/// Memory of the host that stands for a GPU's: it holds no numbers at first, and what is written beyond it shows.
#[derive(Debug)]
pub(crate) struct HostMemory {
    words: Vec<u64>,
    begin: usize,
    bytes: usize,
}

const GUARD_WORDS: usize = 64;
const GUARD: u64 = 0xa5a5_a5a5_a5a5_a5a5;

impl HostMemory {
    fn new(bytes: usize) -> Self {
        let inner = bytes.div_ceil(8);
        let mut words = vec![u64::MAX; inner + 2 * GUARD_WORDS];
        // Memory of a GPU begins at multiples of 256 bytes.
        let begin = (GUARD_WORDS / 2..GUARD_WORDS)
            .find(|index| (words[*index..].as_ptr() as usize).is_multiple_of(256))
            .unwrap();
        words[..begin].fill(GUARD);
        words[begin + inner..].fill(GUARD);
        Self { words, begin, bytes }
    }
}

impl Memory for HostMemory {
    fn address(&self) -> Address {
        self.words[self.begin..].as_ptr() as Address
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        let end = self.begin + self.bytes.div_ceil(8);
        let guards = self.words[..self.begin].iter().chain(&self.words[end..]);
        if !std::thread::panicking() {
            assert!(
                guards.into_iter().all(|word| *word == GUARD),
                "a kernel wrote beyond its memory"
            );
        }
    }
}

type Recorded = Box<dyn Fn(&Emulator)>;

/// The emulator as a device. What it replays are the launches with the arguments that they were recorded with.
pub(crate) struct EmulatorBackend {
    emulator: Arc<Emulator>,
    recording: Option<Vec<Recorded>>,
    records: bool,
    pub(crate) replayed: Arc<AtomicUsize>,
}

impl EmulatorBackend {
    pub(crate) fn new(specialisation: Specialisation, records: bool) -> Self {
        Self {
            emulator: Emulator::of(specialisation),
            recording: None,
            records,
            replayed: Arc::default(),
        }
    }

    fn submit(&mut self, launch: Recorded) {
        match &mut self.recording {
            Some(recording) => recording.push(launch),
            None => launch(&self.emulator),
        }
    }
}

#[expect(unsafe_code, reason = "addresses are of memory of the host")]
impl Backend for EmulatorBackend {
    type Error = Infallible;
    type Memory = HostMemory;
    type Graph = Vec<Recorded>;

    fn allocate(&self, bytes: usize) -> Result<HostMemory, Infallible> {
        Ok(HostMemory::new(bytes))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Infallible> {
        assert!(self.recording.is_none(), "an upload cannot be recorded");
        // SAFETY: the decoder gives addresses of its memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Infallible> {
        assert!(self.recording.is_none(), "a download cannot be recorded");
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch<K: Kernel>(&mut self, grid: [u32; 3], shared: usize, arguments: &K) -> Result<(), Infallible> {
        let arguments = *arguments;
        self.submit(Box::new(move |emulator| {
            emulator.launch(grid, shared as u32, &arguments);
        }));
        Ok(())
    }

    fn multiply(&mut self, product: &Product) -> Result<(), Infallible> {
        let product = *product;
        self.submit(Box::new(move |_| multiply(&product)));
        Ok(())
    }

    fn records(&self) -> bool {
        self.records
    }

    fn begin_recording(&mut self) -> Result<(), Infallible> {
        self.recording = Some(Vec::new());
        Ok(())
    }

    fn end_recording(&mut self) -> Result<Self::Graph, Infallible> {
        Ok(self.recording.take().unwrap())
    }

    fn replay(&mut self, graph: &Self::Graph) -> Result<(), Infallible> {
        self.replayed.fetch_add(1, Ordering::Relaxed);
        for launch in graph {
            launch(&self.emulator);
        }
        Ok(())
    }
}

/// What cublasLt computes.
#[expect(unsafe_code, reason = "addresses are of memory of the host")]
fn multiply(product: &Product) {
    let width = product.element_type.bytes(product.columns);
    let rows = |address: Address, count: usize| -> Vec<Vec<f32>> {
        (0..count)
            .map(|row| {
                // SAFETY: the decoder gives addresses of its memory.
                let bytes = unsafe { std::slice::from_raw_parts((address as *const u8).add(row * width), width) };
                let mut values = vec![0.0; product.columns];
                dequantise(product.element_type, bytes, &mut values);
                values
            })
            .collect()
    };
    let (inputs, weights) = (rows(product.input, product.rows), rows(product.matrix, product.outputs));
    for (row, input) in inputs.iter().enumerate() {
        for (output, weights) in weights.iter().enumerate() {
            let sum: f32 = input.iter().zip(weights).map(|(input, weight)| input * weight).sum();
            // SAFETY: as above.
            unsafe { *(product.output as *mut f32).add(row * product.stride + output) = sum };
        }
    }
}
