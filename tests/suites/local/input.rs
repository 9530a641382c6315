//! Bad input: the message names what, where and what to do, and the exit code says whose mistake it was.

use std::{fs, process::Command};

use crate::lem::{Bench, TINY, binaries, stderr};

fn complaint(manifest: &str, settings: &[&str]) -> (Option<i32>, String) {
    let bench = Bench::new(manifest);
    let output = bench.run(settings);
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    (output.status.code(), stderr(&output))
}

#[test]
fn an_invalid_experiment_ends_with_code_2_and_names_its_field() {
    for (settings, words) in [
        (
            &["workload.maxOuputTokens=3"][..],
            "spec.workload.maxOuputTokens: unknown field; did you mean maxOutputTokens?",
        ),
        (&["workload.requests=0"], "spec.workload.requests: must be at least 1"),
        (&["decoder.doSample=true"], "spec.decoder"),
        (
            &["model.source={image: {reference: x}}"],
            "spec.model.source.image: image volumes exist on a cluster only",
        ),
        (
            &["model.source={persistentVolumeClaim: {claimName: x}}"],
            "spec.model.source.persistentVolumeClaim",
        ),
        (
            &["workload.requests"],
            "--set workload.requests: there is no `=`: write field=value",
        ),
        (
            &["workload.requests=many"],
            "must be an integer, found a string (from --set workload.requests=many)",
        ),
        (
            &["model.source={directory: {path: absent.gguf}}"],
            "experiment.yaml: spec.model.source.directory.path: there is nothing at ",
        ),
        (
            &["model.source.synthetic.preset=gpt-17"],
            "experiment.yaml: spec.model.source.synthetic.preset: there is no preset \"gpt-17\"; presets are tiny-test",
        ),
        (
            &["sweep=[{field: model.source.directory.path, values: [a]}]"],
            "model.source.directory.path",
        ),
        (
            &["processes.gpusPerProcess=1", "energy.gpu=Required"],
            "spec.energy.gpu",
        ),
    ] {
        let (code, text) = complaint(TINY, settings);
        assert!(
            code == Some(2) && text.contains(words),
            "{settings:?} ended with {code:?}:\n{text}"
        );
    }
    let (code, text) = complaint("spec: [", &[]);
    assert!(
        code == Some(2) && text.contains("not valid YAML") && text.contains("line"),
        "{text}"
    );
    let (code, text) = complaint("", &[]);
    assert!(code == Some(2) && text.contains("holds no experiment"), "{text}");
}

#[test]
fn the_presets_that_are_admitted_are_those_that_the_engine_has() {
    assert_eq!(
        lem_crds::validate::PRESETS,
        lem_runner::engine::architecture::PRESET_NAMES
    );
}

#[test]
fn a_file_for_a_cluster_may_name_paths_that_this_machine_does_not_have() {
    let bench = Bench::new(&TINY.replace("{synthetic: {preset: tiny-test}}", "{directory: {path: /absent.gguf}}"));
    let mut validate = Command::new(binaries().join("lem"));
    let output = validate
        .args(["validate", "--cluster", "experiment.yaml"])
        .current_dir(bench.folder.path());
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn two_experiments_of_one_name_are_refused_before_either_is_measured() {
    let (code, text) = complaint(&format!("{TINY}---{TINY}"), &[]);
    assert!(
        code == Some(2) && text.contains("document 2: tiny is in experiment.yaml, document 1 already"),
        "{text}"
    );
}

#[test]
fn a_model_that_cannot_be_loaded_ends_with_code_1_and_says_why() {
    let bench = Bench::new(TINY);
    let damaged = bench.folder.path().join("damaged.gguf");
    fs::write(&damaged, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    for (setting, words) in [
        ("model.source={directory: {path: damaged.gguf}}", "damaged.gguf"),
        ("workload.maxInputTokens=1000000", "context"),
    ] {
        let output = bench.run(&[setting]);
        let text = stderr(&output);
        assert!(
            output.status.code() == Some(1) && text.contains(words),
            "{setting}: {:?}\n{text}",
            output.status
        );
        assert!(!text.contains("panicked") && text.lines().count() < 5, "{text}");
    }
}

#[test]
fn every_example_is_valid_and_its_plan_can_be_shown() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        for arguments in [&["validate"][..], &["run", "--dry-run"]] {
            let output = Command::new(binaries().join("lem"))
                .args(arguments)
                .arg(entry.path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                entry.path().display(),
                stderr(&output)
            );
        }
    }
    assert!(count >= 4, "examples/ has one file per use");
}

#[test]
fn the_plan_of_a_fleet_is_shown_for_each_node_before_a_cluster_is_asked_for_one() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/every-gpu.yaml");
    let show = |output: &str| {
        let output = Command::new(binaries().join("lem"))
            .args(["run", "--dry-run", "--output", output, example])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = show("table");
    assert!(text.contains("on each node that matches, 10% of them"), "{text}");
    assert!(text.contains("GPU seconds of each node"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&show("json")).unwrap();
    assert_eq!(
        (&json["perNode"], &json["plan"]["processes"]),
        (&true.into(), &8.into())
    );
}

#[test]
fn a_plan_can_be_read_by_a_machine() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");
    let show = |output: &str| {
        let output = Command::new(binaries().join("lem"))
            .args([
                "run",
                "--dry-run",
                "--output",
                output,
                "--set",
                "protocol.cycles=3",
                example,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let json: serde_json::Value = serde_json::from_slice(&show("json")).unwrap();
    let points = json["points"].as_array().unwrap();
    assert_eq!(json["plan"]["points"], points.len());
    assert_eq!(json["plan"]["trials"], 3 * points.len());
    assert_eq!(points[0]["planSha256"].as_str().unwrap().len(), 64);
    let yaml: serde_json::Value = serde_yaml::from_slice(&show("yaml")).unwrap();
    assert_eq!(yaml, json);
}

#[test]
fn every_experiment_for_a_cluster_is_valid() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster");
    let files = fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    let experiments: Vec<_> = files
        .filter(|path| fs::read_to_string(path).unwrap().contains("kind: EfficiencyExperiment"))
        .collect();
    assert!(experiments.len() >= 2, "{experiments:?}");
    let output = Command::new(binaries().join("lem"))
        .args(["validate", "--cluster"])
        .args(&experiments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_table_piped_into_a_reader_that_stops_is_no_error() {
    let output = Command::new("sh")
        .args(["-c", &format!("{} crd | head -n 1", binaries().join("lem").display())])
        .output()
        .unwrap();
    assert!(
        output.status.success() && stderr(&output).is_empty(),
        "{}",
        stderr(&output)
    );
}
