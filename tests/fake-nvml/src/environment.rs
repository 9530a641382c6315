//! For tests: where the built library is, and setting the variables that point at it.
#![expect(
    unsafe_code,
    reason = "std::env::set_var is unsafe; tests call this once, before any meter exists"
)]

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{MACHINE_VARIABLE, Machine};

static INSTALLED: OnceLock<PathBuf> = OnceLock::new();

/// The cdylib of this crate next to the running test executable: `target/<profile>/deps` or its parent.
pub fn library() -> io::Result<PathBuf> {
    let executable = env::current_exe()?;
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .flat_map(|folder| {
            [
                folder.join("liblem_fake_nvml.so"),
                folder.join("deps/liblem_fake_nvml.so"),
            ]
        })
        .find(|path| path.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "liblem_fake_nvml.so is not next to the test"))
}

/// Writes `machine` to a file and points `LEM_FAKE_NVML` at it, once per process (later calls change nothing).
/// Returns the library to load.
pub fn install(machine: &Machine, folder: &Path) -> io::Result<PathBuf> {
    let library = library()?;
    let file = folder.join(format!("fake-nvml-{}.json", std::process::id()));
    if INSTALLED.get().is_none() {
        std::fs::write(&file, serde_json::to_vec_pretty(machine)?)?;
    }
    INSTALLED.get_or_init(|| {
        // SAFETY: the first thing that a test does; no other thread reads the environment yet.
        unsafe { env::set_var(MACHINE_VARIABLE, &file) };
        file
    });
    Ok(library)
}
