//! Starts the real `lem` beside this test's executable on an experiment of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use lem_crds::{EfficiencyExperimentStatus, RunnerStatus};
use lem_fake_nvml::{Board, Machine};
use serde_json::Value;
use tempfile::TempDir;

/// The folder of the built binaries.
pub(crate) fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// A folder with one experiment.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

/// A tiny seeded model and few tokens: everything real, nothing slow.
pub(crate) const TINY: &str = "
apiVersion: lem.dev/v1alpha1
kind: EfficiencyExperiment
metadata: {name: tiny}
spec:
  model: {name: tiny, source: {synthetic: {preset: tiny-test}}}
  engine: {candle: {device: Cpu}}
  workload: {requests: 4, maxInputTokens: 8, maxOutputTokens: 8}
  processes: {count: 2, gpusPerProcess: 0}
  protocol:
    cycles: 2
    baseline: {duration: 100ms}
    cooldown: {duration: 0s}
    warmup: {fixed: {iterations: 1}}
";

impl Bench {
    pub(crate) fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("experiment.yaml"), manifest).unwrap();
        Self { folder }
    }

    /// `lem run experiment.yaml` with these settings.
    pub(crate) fn command(&self, settings: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("lem"));
        command
            .current_dir(self.folder.path())
            .args(["run", "experiment.yaml", "--quiet"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// The same, on a machine with these boards.
    pub(crate) fn command_with_boards(&self, settings: &[&str], devices: Vec<Board>) -> Command {
        let file = self.folder.path().join("nvml.json");
        fs::write(&file, serde_json::to_vec(&Machine { devices }).unwrap()).unwrap();
        let mut command = self.command(settings);
        command
            .env("LEM_NVML_LIBRARY", lem_fake_nvml::environment::library().unwrap())
            .env(lem_fake_nvml::MACHINE_VARIABLE, file);
        command
    }

    pub(crate) fn run(&self, settings: &[&str]) -> Output {
        self.command(settings).output().unwrap()
    }

    /// A run that has measured its first trial and goes on.
    pub(crate) fn start(&self, command: &mut Command) -> Child {
        let mut lem = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        wait_until(&mut lem, "the first trial", || self.windows() >= 2);
        lem
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.folder.path().join("results/tiny")
    }

    pub(crate) fn status(&self) -> EfficiencyExperimentStatus {
        serde_json::from_slice(&fs::read(self.results().join("status.json")).unwrap()).unwrap()
    }

    /// Every record on disk, by file name.
    pub(crate) fn records(&self) -> Vec<(String, RunnerStatus)> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.results().join("runners"))
            .into_iter()
            .flatten()
            .map(Result::unwrap)
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let value: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
                records.push((name, serde_json::from_value(value["status"].clone()).unwrap()));
            }
        }
        records.sort_by(|left, right| left.0.cmp(&right.0));
        records
    }

    pub(crate) fn windows(&self) -> usize {
        self.records().iter().map(|(_, record)| record.windows.len()).sum()
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a condition holds while a child lives; a limit, so that a fault is a failure and not a hang.
fn wait_until(child: &mut Child, what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_mins(2), "{what} did not happen");
        assert!(child.try_wait().unwrap().is_none(), "lem ended before {what}");
        std::thread::yield_now();
    }
}

/// Process ids of the children of a process.
pub(crate) fn children(parent: u32) -> Vec<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(path).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

pub(crate) fn signal(process: i32, name: &str) {
    assert!(
        Command::new("kill")
            .args([name, &process.to_string()])
            .status()
            .unwrap()
            .success()
    );
}
