//! Alerts: each has a runbook, and cases in which it fires and in which it does not.

use std::{collections::BTreeMap, fs, process::Command};

use lem_test_cluster::Binaries;
use serde_yaml::Value;

use crate::{PUBLISHED, files, links, queries::rules, repository, text};

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    for alert in rules("alerts") {
        let name = alert["alert"].as_str().unwrap();
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["info", "warning", "critical"].contains(&severity), "{name}");
        assert!(alert["for"].is_string(), "{name}");
        let annotations = &alert["annotations"];
        for annotation in ["summary", "description"] {
            assert!(
                annotations[annotation]
                    .as_str()
                    .is_some_and(|words| words.contains("{{")),
                "{name}: {annotation}"
            );
        }
        let expected = format!("{PUBLISHED}runbooks.md#{}", name.to_lowercase());
        assert_eq!(annotations["runbook_url"], expected);
        assert_eq!(links::broken(&repository().join("README.md"), &expected), None);
    }
}

#[test]
fn every_section_of_the_runbooks_belongs_to_an_alert() {
    let alerts = rules("alerts");
    let runbooks = text("docs/runbooks.md");
    for heading in runbooks.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(alerts.iter().any(|alert| alert["alert"] == heading), "{heading}");
    }
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let mut cases: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in files(&repository().join("tests/fixtures/rules"), "yaml") {
        let content: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let tests = content["tests"].as_sequence().unwrap();
        for case in tests
            .iter()
            .flat_map(|test| test["alert_rule_test"].as_sequence().into_iter().flatten())
        {
            // A merged case has its name from the one that it repeats.
            let Some(name) = case["alertname"].as_str() else {
                continue;
            };
            let fires = case["exp_alerts"]
                .as_sequence()
                .is_some_and(|alerts| !alerts.is_empty());
            let (firing, quiet) = cases.entry(name.to_owned()).or_default();
            *(if fires { firing } else { quiet }) += 1;
        }
    }
    for alert in rules("alerts") {
        let name = alert["alert"].as_str().unwrap();
        let (firing, quiet) = cases.get(name).copied().unwrap_or_default();
        assert!(firing > 0 && quiet > 0, "{name}: {firing} cases fire, {quiet} do not");
    }
}

/// Runs promtool with some files.
fn promtool(arguments: &[&str], folder: &str) {
    // Where none can be built, that of the machine.
    let program = Binaries::ensure().map_or_else(|_| "promtool".into(), |binaries| binaries.path("promtool"));
    let files = files(&repository().join(folder), "yaml");
    assert!(!files.is_empty());
    let output = Command::new(&program).args(arguments).args(files).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let words = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", words.concat());
}

#[test]
#[ignore = "needs promtool, which is among the programs of the test cluster"]
fn prometheus_takes_the_rules() {
    promtool(&["check", "rules", "--lint-fatal"], "charts/lem/rules");
}

#[test]
#[ignore = "needs promtool, which is among the programs of the test cluster"]
fn the_rules_do_what_their_cases_say() {
    promtool(&["test", "rules"], "tests/fixtures/rules");
}
