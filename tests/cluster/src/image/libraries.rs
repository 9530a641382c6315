//! The shared libraries that a program needs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{command, error::Error};

/// Parts of glibc that NVIDIA's libraries, opened at run time, were linked against.
const OPENED_AT_RUN_TIME: [&str; 4] = ["libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// The loader and the libraries of a dynamically linked program, each where the loader looks for it; nothing for a static one.
pub(super) fn of(program: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let listed = match command::run(Command::new("ldd").arg(program)) {
        Ok(listed) => listed,
        // What ldd says of a static program.
        Err(Error::Command { output, .. }) if output.contains("not a dynamic executable") => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut libraries = parse(&listed, program)?;
    let folder = libraries
        .iter()
        .find(|path| path.ends_with("libc.so.6"))
        .and_then(|path| path.parent().map(Path::to_owned));
    if let Some(folder) = folder {
        libraries.extend(
            OPENED_AT_RUN_TIME
                .iter()
                .map(|name| folder.join(name))
                .filter(|path| path.exists()),
        );
    }
    Ok(libraries)
}

fn parse(listed: &str, program: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let mut libraries = BTreeSet::new();
    for line in listed.lines().map(str::trim) {
        if line.contains("not found") {
            return Err(Error::Missing {
                missing: format!("a library of {}: {line}", program.display()),
                remedy: "install it",
            });
        }
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)"
        let path = line.split("=>").last().unwrap_or(line).trim();
        if let Some(path) = path.split(" (").next().filter(|path| path.starts_with('/')) {
            libraries.insert(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::parse;

    #[test]
    fn loader_and_libraries_are_found_and_the_kernels_own_is_not() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let libraries = parse(listed, Path::new("x")).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert!(libraries.iter().map(|path| path.to_str().unwrap()).eq(expected));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse("libcuda.so.1 => not found", Path::new("runner")).unwrap_err();
        assert!(error.to_string().contains("libcuda.so.1"), "{error}");
    }
}
