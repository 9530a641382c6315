//! What the charts render is what each supported Kubernetes takes, by its own schemas (`tests/fixtures/kubernetes-schemas`).

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::helm::{CASES, chart, printed, program, template, values};

const SUPPORTED: [&str; 5] = ["1.33", "1.34", "1.35", "1.36", "1.37"];

/// Checks documents against the schemas of one version.
fn conforms(documents: &str, version: &str) -> Output {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kubernetes-schemas");
    let location = |folder: &str| schemas.join(folder).join("{{ .ResourceKind }}.json");
    let mut child = Command::new(program("kubeconform"))
        .arg("-schema-location")
        .arg(location(version))
        .arg("-schema-location")
        .arg(location("monitoring"))
        .args(["-summary", "-verbose", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let documents = documents.to_owned();
    let writer = std::thread::spawn(move || input.write_all(documents.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn every_case_conforms_to_every_supported_kubernetes() {
    let mut rendered = vec![printed(&template(&chart("lem-crds"), &[]))];
    for case in CASES {
        let values = values(case);
        rendered.push(printed(&template(
            &chart("lem"),
            &["--values", values.to_str().unwrap()],
        )));
    }
    for version in SUPPORTED {
        for documents in &rendered {
            let output = conforms(documents, version);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{version}: {said}");
            assert!(said.contains("Skipped: 0"), "{version}: {said}");
        }
    }
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn a_field_that_kubernetes_does_not_have_is_found() {
    let text = printed(&template(&chart("lem"), &[]));
    for (right, wrong) in [
        ("enableServiceLinks:", "enableServiceLink:"),
        ("maxUnavailable: 1", "maxUnavailable: [1]"),
        ("failurePolicy:", "failPolicy:"),
    ] {
        let broken = text.replacen(right, wrong, 1);
        assert_ne!(broken, text, "{right}");
        assert!(!conforms(&broken, "1.33").status.success(), "{wrong}");
    }
}
