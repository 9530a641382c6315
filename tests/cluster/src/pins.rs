//! What the cluster is made of: the data in `tests/cluster/binaries`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// `binaries.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    /// The oldest Go that builds all of it.
    pub(crate) go: String,
    /// Debian packages, each with a file by which one sees that it is there.
    pub(crate) packages: BTreeMap<String, PathBuf>,
    /// What to build, in this order.
    pub(crate) modules: Vec<Module>,
    /// What no cluster needs, built when it is asked for.
    pub(crate) optional: Vec<Module>,
    /// The program that holds a pod's namespaces.
    pub(crate) pause: Pause,
}

/// Programs built by one `go build`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Module {
    /// Folder with go.mod and go.sum.
    pub(crate) folder: String,
    /// Packages of the programs.
    pub(crate) packages: Vec<String>,
    /// Name of the only program, where the package has another.
    #[serde(default)]
    pub(crate) output: Option<String>,
    /// Build tags.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Go variables set when linking.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    /// Needs a C compiler.
    #[serde(default)]
    pub(crate) cgo: bool,
    /// How the programs are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chart: Option<Chart>,
}

/// A chart in the source of a Go module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chart {
    pub(crate) module: String,
    pub(crate) folder: PathBuf,
    /// Under which it lies beside the programs.
    pub(crate) name: String,
}

/// A C program in a Go module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pause {
    pub(crate) folder: String,
    pub(crate) module: String,
    pub(crate) source: PathBuf,
}

/// The folder of the data.
pub(crate) fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/binaries"))
}

impl Pins {
    /// The data with the hash of all of it.
    pub(crate) fn read() -> Result<(Self, String), Error> {
        let path = folder().join("binaries.yaml");
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        let pins: Self = serde_yaml::from_slice(&text).map_err(Error::data("binaries.yaml"))?;
        let mut hash = Sha256::new_with_prefix(&text);
        for module in &pins.modules {
            hash.update(module.hash()?);
        }
        Ok((pins, short(hash)))
    }
}

/// Enough of a hash to name a folder.
fn short(hash: Sha256) -> String {
    let mut digits = hex(&hash.finalize());
    digits.truncate(16);
    digits
}

impl Module {
    /// Hash of all that decides what the programs are: a change to one module leaves the others built.
    pub(crate) fn hash(&self) -> Result<String, Error> {
        let mut hash = Sha256::new_with_prefix(serde_yaml::to_string(self).map_err(Error::data("binaries.yaml"))?);
        for name in ["go.mod", "go.sum"] {
            let path = folder().join(&self.folder).join(name);
            hash.update(fs::read(&path).map_err(Error::file("read", &path))?);
        }
        Ok(short(hash))
    }

    /// Names of the programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().map(|package| {
            self.output
                .as_deref()
                .unwrap_or_else(|| package.rsplit('/').next().unwrap_or(package))
        })
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

#[cfg(test)]
mod tests {
    use super::{Pins, folder};

    #[test]
    fn every_module_is_pinned_with_checksums() {
        let (pins, hash) = Pins::read().unwrap();
        assert_eq!(hash.len(), 16);
        for module in pins.modules.iter().chain(&pins.optional) {
            let sums = std::fs::read_to_string(folder().join(&module.folder).join("go.sum")).unwrap();
            assert!(sums.lines().count() > 20, "{}", module.folder);
        }
    }

    #[test]
    fn a_program_has_the_name_of_its_package_unless_it_is_given_one() {
        let (pins, _) = Pins::read().unwrap();
        let programs: Vec<_> = pins.modules.iter().flat_map(super::Module::programs).collect();
        for program in [
            "kube-apiserver",
            "kubelet",
            "kubectl",
            "etcd",
            "containerd",
            "ctr",
            "runc",
        ] {
            assert!(programs.contains(&program), "{program} in {programs:?}");
        }
    }
}
