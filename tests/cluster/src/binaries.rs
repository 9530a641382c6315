//! The programs of the cluster: built once from the pinned modules, then found in the cache.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    command,
    error::Error,
    image::Image,
    pins::{self, Chart, Module, Pins},
};

/// Names the cache folder; default `~/.cache/lem/cluster`.
pub const CACHE_VARIABLE: &str = "LEM_TEST_CLUSTER_CACHE";

/// Name of the image of the program that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "localhost/pause:1";

/// Where the CNI plugins of the Debian package are.
pub(crate) const NETWORK_PLUGINS: &str = "/usr/lib/cni";

/// Built programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

/// The cache folder of this crate.
pub(crate) fn cache() -> Result<PathBuf, Error> {
    let home = |name: &str, rest: &str| env::var_os(name).map(|home| PathBuf::from(home).join(rest));
    env::var_os(CACHE_VARIABLE)
        .map(PathBuf::from)
        .or_else(|| home("XDG_CACHE_HOME", "lem/cluster"))
        .or_else(|| home("HOME", ".cache/lem/cluster"))
        .ok_or(Error::Missing {
            missing: "a cache folder".to_owned(),
            remedy: "set LEM_TEST_CLUSTER_CACHE or HOME",
        })
}

impl Binaries {
    /// The programs for the pinned versions; builds what is missing, and says so on standard error.
    pub fn ensure() -> Result<Self, Error> {
        let (pins, hash) = Pins::read()?;
        let cache = cache()?;
        let folder = cache.join(&hash);
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        install_packages(&pins)?;
        let complete = folder.join("complete");
        let binaries = Self { folder };
        if complete.exists() {
            return Ok(binaries);
        }
        let _lock = lock(&cache)?;
        if !complete.exists() {
            binaries.build(&pins, &cache)?;
            fs::write(&complete, "").map_err(Error::file("write", &complete))?;
        }
        Ok(binaries)
    }

    /// Path of a program that no cluster needs; builds it, and says so on standard error, when it is first asked for.
    pub fn optional(&self, program: &str) -> Result<PathBuf, Error> {
        let (pins, _) = Pins::read()?;
        let module = pins
            .optional
            .iter()
            .find(|module| module.programs().any(|name| name == program));
        let module = module.ok_or_else(|| Error::Missing {
            missing: program.to_owned(),
            remedy: "name a program of tests/cluster/binaries/binaries.yaml",
        })?;
        let cache = cache()?;
        let _lock = lock(&cache)?;
        if !self.path(program).exists() {
            self.link(&Go::find(&pins.go, &cache)?, module, &cache)?;
            remove_go_cache(&cache)?;
        }
        Ok(self.path(program))
    }

    /// Path of one program.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// Folder of the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `PATH` with the programs first.
    pub(crate) fn search_path(&self) -> String {
        format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.folder.display()
        )
    }

    fn build(&self, pins: &Pins, cache: &Path) -> Result<(), Error> {
        let go = Go::find(&pins.go, cache)?;
        progress(&format!(
            "building the programs of the test cluster into {}: about 8 minutes on 2 cores, once",
            self.folder.display()
        ));
        for module in &pins.modules {
            self.link(&go, module, cache)?;
        }
        self.build_pause(&go, pins)?;
        remove_go_cache(cache)
    }

    /// Builds the programs of a module unless they are there from before, and gives them their place.
    fn link(&self, go: &Go, module: &Module, cache: &Path) -> Result<(), Error> {
        let built = cache.join("modules").join(module.hash()?);
        let programs: Vec<_> = module.programs().collect();
        if !programs.iter().all(|program| built.join(program).exists()) {
            let start = Instant::now();
            progress(&format!("  building {}", programs.join(", ")));
            build_module(go, module, &built)?;
            if let Some(chart) = &module.chart {
                copy_chart(go, module, chart, &built)?;
            }
            progress(&format!("    done in {:.0} s", start.elapsed().as_secs_f64()));
        }
        for program in programs {
            let (from, to) = (built.join(program), self.path(program));
            if !to.exists() {
                fs::hard_link(&from, &to).map_err(Error::file("link", from))?;
            }
        }
        if let Some(chart) = &module.chart {
            let (from, to) = (built.join(&chart.name), self.path(&chart.name));
            if !to.exists() {
                symlink(&from, &to).map_err(Error::file("link", from))?;
            }
        }
        Ok(())
    }

    fn build_pause(&self, go: &Go, pins: &Pins) -> Result<(), Error> {
        let module = source(go, &pins.pause.folder, &pins.pause.module)?;
        let pause = self.path("pause");
        command::run(
            Command::new("gcc")
                .args(["-Os", "-static", "-s", "-o"])
                .arg(&pause)
                .arg(module.join(&pins.pause.source)),
        )?;
        Image::new(PAUSE_IMAGE, &pause)?.write(&self.path("pause.tar"))?;
        Ok(())
    }
}

/// Where the source of a module is. Where every program was built before, nothing has fetched it.
fn source(go: &Go, folder: &str, module: &str) -> Result<PathBuf, Error> {
    command::run(go.command(folder, false).args(["mod", "download", module]))?;
    let mut list = go.command(folder, false);
    let found = command::run(list.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module]))?;
    Ok(found.trim().into())
}

/// Keeps a module's chart beside its programs.
fn copy_chart(go: &Go, module: &Module, chart: &Chart, folder: &Path) -> Result<(), Error> {
    let from = source(go, &module.folder, &chart.module)?.join(&chart.folder);
    let mut copy = Command::new("cp");
    command::run(copy.arg("--recursive").arg(from).arg(folder.join(&chart.name)))?;
    Ok(())
}

/// Held while something is built: another test process may be building the same.
fn lock(cache: &Path) -> Result<File, Error> {
    let path = cache.join("build.lock");
    let lock = File::create(&path).map_err(Error::file("create", &path))?;
    lock.lock().map_err(Error::file("lock", &path))?;
    Ok(lock)
}

/// Some 7 GB that are of no use until a version changes.
fn remove_go_cache(cache: &Path) -> Result<(), Error> {
    let build = cache.join("go");
    if env::var_os("LEM_TEST_CLUSTER_KEEP_GO_CACHE").is_none() && build.exists() {
        fs::remove_dir_all(&build).map_err(Error::file("remove", &build))?;
    }
    Ok(())
}

/// Builds the programs of one module into a folder.
fn build_module(go: &Go, module: &Module, folder: &Path) -> Result<(), Error> {
    // Programs appear under their names only when they are whole.
    let unfinished = folder.join("unfinished");
    fs::create_dir_all(&unfinished).map_err(Error::file("create", &unfinished))?;
    let variables = module.variables.iter();
    let variables: Vec<String> = variables.map(|(name, value)| format!(" -X {name}={value}")).collect();
    let flags = format!("-s -w{}", variables.concat());
    let output = match &module.output {
        Some(name) => unfinished.join(name),
        None => unfinished.join(""),
    };
    let mut build = go.command(&module.folder, module.cgo);
    build
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags])
        .args(["-tags", &module.tags.join(",")])
        .arg("-o")
        .arg(output)
        .args(&module.packages);
    command::run(&mut build)?;
    for program in module.programs() {
        let (from, to) = (unfinished.join(program), folder.join(program));
        fs::rename(&from, &to).map_err(Error::file("rename", from))?;
    }
    fs::remove_dir(&unfinished).map_err(Error::file("remove", unfinished))
}

/// The Go tool chain with caches of its own, so that they can be removed.
struct Go {
    program: PathBuf,
    cache: PathBuf,
}

impl Go {
    fn find(oldest: &str, cache: &Path) -> Result<Self, Error> {
        let remedy = "install it from https://go.dev/dl and put it in PATH";
        let found = ["go", "/usr/local/go/bin/go"].into_iter().find_map(|program| {
            let version = command::run(Command::new(program).args(["env", "GOVERSION"])).ok()?;
            newer_or_equal(version.trim().trim_start_matches("go"), oldest).then(|| program.into())
        });
        found
            .map(|program| Self {
                program,
                cache: cache.join("go"),
            })
            .ok_or_else(|| Error::Missing {
                missing: format!("Go {oldest} or newer"),
                remedy,
            })
    }

    fn command(&self, module: &str, cgo: bool) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(pins::folder().join(module))
            .env("GOCACHE", self.cache.join("build"))
            .env("GOMODCACHE", self.cache.join("mod"))
            .env("GOFLAGS", "-modcacherw -buildvcs=false")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", if cgo { "1" } else { "0" });
        command
    }
}

/// Compares the first two numbers of versions like 1.26.8.
fn newer_or_equal(version: &str, oldest: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> { text.split('.').take(2).map_while(|part| part.parse().ok()).collect() };
    numbers(version) >= numbers(oldest)
}

fn install_packages(pins: &Pins) -> Result<(), Error> {
    let missing: Vec<&str> = pins
        .packages
        .iter()
        .filter(|(_, file)| !file.exists())
        .map(|(package, _)| package.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Missing {
            missing: missing.join(", "),
            remedy: "install these packages",
        });
    }
    progress(&format!("installing {}", missing.join(", ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command::run(&mut command)
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-yq", "--no-install-recommends"], missing.as_slice()].concat())?;
    Ok(())
}

/// A line for the person who waits.
pub(crate) fn progress(line: &str) {
    eprintln!("{line}");
}

/// This crate's own program: `LEM_TEST_CLUSTER`, else beside the running program or test.
pub(crate) fn own_program() -> Result<PathBuf, Error> {
    const NAME: &str = "lem-test-cluster";
    if let Some(path) = env::var_os("LEM_TEST_CLUSTER") {
        return Ok(path.into());
    }
    let executable = env::current_exe().map_err(Error::file("find", NAME))?;
    if executable.file_name() == Some(OsStr::new(NAME)) {
        return Ok(executable);
    }
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file())
        .ok_or(Error::Missing {
            missing: NAME.to_owned(),
            remedy: "build it with `cargo build -p lem-test-cluster`",
        })
}

#[cfg(test)]
mod tests {
    use super::newer_or_equal;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(newer_or_equal("1.26.8", "1.26"));
        assert!(newer_or_equal("1.100", "1.26"));
        assert!(!newer_or_equal("1.9.7", "1.26"));
        assert!(!newer_or_equal("", "1.26"));
    }
}
