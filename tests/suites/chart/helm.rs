//! Helm, and what it renders.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use lem_test_cluster::Binaries;
use serde_yaml::Value;

use crate::world::repository;

/// The newest Kubernetes that the charts are rendered for.
pub(crate) const NEWEST: &str = "1.37";
/// The values for which everything is rendered, one file each in `values/`.
pub(crate) const CASES: [&str; 4] = ["default", "hardened", "namespaced", "everything"];
/// Namespace of the rendered release.
pub(crate) const NAMESPACE: &str = "lem-system";

/// A program of the test cluster's cache, or that of the machine where none can be built.
pub(crate) fn program(name: &str) -> PathBuf {
    static BINARIES: OnceLock<Option<Binaries>> = OnceLock::new();
    let binaries = BINARIES.get_or_init(|| {
        let found = Binaries::ensure();
        found
            .inspect_err(|error| eprintln!("the machine's own {name} is used: {error}"))
            .ok()
    });
    binaries
        .as_ref()
        .map_or_else(|| name.into(), |binaries| binaries.path(name))
}

/// Runs Helm.
pub(crate) fn helm<I>(arguments: I) -> Output
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let program = program("helm");
    let output = Command::new(&program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// What a successful command printed.
pub(crate) fn printed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A chart of the repository.
pub(crate) fn chart(name: &str) -> PathBuf {
    repository().join("charts").join(name)
}

/// The values of a case.
pub(crate) fn values(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("suites/chart/values/{case}.yaml"))
}

/// `helm template` of a chart as the release `lem`.
pub(crate) fn template(chart: &Path, more: &[&str]) -> Output {
    let path = chart.to_str().unwrap();
    let fixed = [
        "template",
        "lem",
        path,
        "--namespace",
        NAMESPACE,
        "--kube-version",
        NEWEST,
    ];
    helm(fixed.iter().chain(more))
}

/// The objects of the chart `lem` with the values of a case.
pub(crate) fn rendered(case: &str) -> Vec<Value> {
    let values = values(case);
    objects(&printed(&template(
        &chart("lem"),
        &["--values", values.to_str().unwrap()],
    )))
}

/// The objects in a text of several documents.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|object| !object.is_null())
        .collect()
}

/// Kind, namespace and name of an object.
pub(crate) fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    )
}

/// The objects of a kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}
