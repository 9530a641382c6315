//! What a failed test leaves behind for the person who looks into it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    binaries::{Binaries, progress},
    cluster::Cluster,
    command,
    error::{Error, with_causes},
    folder::Folder,
};

/// Collects the state of a cluster if the test that holds it panics.
#[derive(Debug)]
pub struct FailureGuard<'a> {
    cluster: &'a Cluster,
    test: String,
}

impl<'a> FailureGuard<'a> {
    pub(crate) fn new(cluster: &'a Cluster, test: &str) -> Self {
        Self {
            cluster,
            test: test.replace("::", "-").replace('/', "-"),
        }
    }
}

impl Drop for FailureGuard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let output = folder(&self.test);
        match self.cluster.collect_failures(&output) {
            Ok(()) => progress(&format!("the state of the cluster is in {}", output.display())),
            Err(error) => progress(&format!(
                "failed to collect the state of the cluster: {}",
                with_causes(&error)
            )),
        }
    }
}

/// `target/cluster-failures/<test>`.
pub(crate) fn folder(test: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"))
        .join("cluster-failures")
        .join(test)
}

/// `kubectl` with a kubeconfig: the built one, else the user's.
pub(crate) fn kubectl(kubeconfig: &Path, binaries: Option<&Binaries>) -> Command {
    let program = binaries.map_or_else(|| PathBuf::from("kubectl"), |binaries| binaries.path("kubectl"));
    let mut command = Command::new(program);
    // A server that is away ends each question soon.
    command.arg("--kubeconfig").arg(kubeconfig).arg("--request-timeout=10s");
    command
}

/// Writes the state into a folder. What cannot be had is left out, with the reason in its place.
pub(crate) fn collect(kubectl: &Command, cluster: Option<&Folder>, output: &Path) -> Result<(), Error> {
    if output.exists() {
        fs::remove_dir_all(output).map_err(Error::file("remove", output))?;
    }
    fs::create_dir_all(output.join("pods")).map_err(Error::file("create", output))?;
    let ask = |arguments: &[&str]| {
        let mut question = Command::new(kubectl.get_program());
        question.args(kubectl.get_args()).args(arguments);
        command::run(&mut question)
    };
    let save = |file: &str, answer: Result<String, Error>| {
        let path = output.join(file);
        let text = answer.unwrap_or_else(|error| with_causes(&error));
        fs::write(&path, text).map_err(Error::file("write", &path))
    };
    if let Some(cluster) = cluster {
        copy_logs(&cluster.logs(), &output.join("cluster"))?;
    }
    save("nodes.txt", ask(&["describe", "nodes"]))?;
    save(
        "events.txt",
        ask(&[
            "get",
            "events",
            "--all-namespaces",
            "--sort-by=.lastTimestamp",
            "--output=wide",
        ]),
    )?;
    save("pods.yaml", ask(&["get", "pods", "--all-namespaces", "--output=yaml"]))?;
    save("jobs.yaml", ask(&["get", "jobs", "--all-namespaces", "--output=yaml"]))?;
    let kinds = ask(&["api-resources", "--api-group=lem.dev", "--output=name"]).unwrap_or_default();
    for kind in kinds.lines() {
        save(
            &format!("{kind}.yaml"),
            ask(&["get", kind, "--all-namespaces", "--output=yaml"]),
        )?;
    }
    let pods = ask(&["get", "pods", "--all-namespaces", "--output=json"]).unwrap_or_default();
    let pods: Value = serde_json::from_str(&pods).unwrap_or_default();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let log = [
            "logs",
            "--all-containers",
            "--prefix",
            "--timestamps",
            "--namespace",
            &namespace,
            &name,
        ];
        save(&format!("pods/{namespace}.{name}.log"), ask(&log))?;
        let previous = ask(&[log.as_slice(), &["--previous"]].concat());
        if previous.as_ref().is_ok_and(|text| !text.is_empty()) {
            save(&format!("pods/{namespace}.{name}.previous.log"), previous)?;
        }
    }
    Ok(())
}

/// For a cluster that never came up: there is nobody to ask, but its programs may have said why.
pub(crate) fn keep_logs(cluster: &Folder, name: &str) {
    let output = folder(name);
    match copy_logs(&cluster.logs(), &output) {
        Ok(()) => progress(&format!("the logs of the cluster are in {}", output.display())),
        Err(error) => progress(&format!(
            "failed to keep the logs of the cluster: {}",
            with_causes(&error)
        )),
    }
}

/// Logs of the cluster's programs, the audit log among them.
fn copy_logs(logs: &Path, output: &Path) -> Result<(), Error> {
    fs::create_dir_all(output).map_err(Error::file("create", output))?;
    for entry in fs::read_dir(logs).map_err(Error::file("read", logs))?.flatten() {
        let to = output.join(entry.file_name());
        fs::copy(entry.path(), &to).map_err(Error::file("write", &to))?;
    }
    Ok(())
}
