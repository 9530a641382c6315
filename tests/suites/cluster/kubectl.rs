//! `kubectl lem` as a user types it: the real plugin, found by the real kubectl.

mod account;
mod doctor;
mod refusals;
mod run;
mod waits;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use lem_crds::EfficiencyExperiment;
use tempfile::TempDir;

use crate::world::{World, binaries};

/// A folder with the plugin under its name, and the files of a test.
struct Plugin<'a> {
    world: &'a World,
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl<'a> Plugin<'a> {
    fn of(world: &'a World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["kubectl-lem", "kubectl_complete-lem"] {
            symlink(binaries().join("lem"), folder.path().join(name)).unwrap();
        }
        Self {
            world,
            folder,
            kubeconfig: world.cluster.kubeconfig().to_owned(),
        }
    }

    /// A file with these experiments, and with other documents as text.
    fn file(&self, name: &str, experiments: &[&EfficiencyExperiment], beside: &str) -> String {
        let path = self.folder.path().join(name);
        let mut text = beside.to_owned();
        for experiment in experiments {
            let mut document = serde_json::to_value(experiment).unwrap();
            // What nobody writes into a file.
            for field in ["cancel", "suspend"] {
                document["spec"].as_object_mut().unwrap().remove(field);
            }
            text.push_str(&["\n---\n", &document.to_string()].concat());
        }
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// kubectl with the plugin on its path.
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.world.cluster.kubectl().get_program());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("KUBECONFIG", &self.kubeconfig)
            // Not what it remembers of an earlier cluster at the same address.
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .stdin(Stdio::null());
        command
    }

    /// `kubectl lem …` in the namespace of the test.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.kubectl(&["lem"]);
        command.args(arguments).args(["--namespace", &self.world.namespace]);
        command
    }

    fn lem(&self, arguments: &[&str]) -> Ended {
        Ended::of(&self.command(arguments).output().unwrap())
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    errors: String,
}

impl Ended {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of a program that ended well.
    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// What a program that ended with an error said.
    #[track_caller]
    fn bad(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.errors
    }
}

#[track_caller]
fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

/// A file as it is, and nothing if it is not there yet.
fn so_far(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
