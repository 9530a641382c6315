//! Rules and dashboards reach the cluster letter by letter: both are written in languages that have braces too.

use std::{fs, path::Path, process::Command};

use crate::helm::{chart, identity, objects, of_kind, printed, template};

const RULES: &str = "groups:\n- name: test\n  rules:\n  - alert: A\n    expr: up == 0\n    annotations:\n      summary: '{{ $labels.instance }} is down'\n";
const DASHBOARD: &str = "{\"title\": \"test\", \"legend\": \"{{instance}} $x\"}\n";

/// A copy of the chart with a file of each kind.
fn copy(folder: &Path) -> std::path::PathBuf {
    let status = Command::new("cp")
        .arg("-r")
        .arg(chart("lem"))
        .arg(folder)
        .status()
        .unwrap();
    assert!(status.success());
    let copy = folder.join("lem");
    for (path, content) in [("rules/a-test.yaml", RULES), ("dashboards/a-test.json", DASHBOARD)] {
        let path = copy.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    copy
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn rules_and_dashboards_are_rendered_as_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let set = "monitoring.rules.enabled=true,monitoring.dashboards.enabled=true,monitoring.labels.release=stack";
    let all = objects(&printed(&template(&copy(folder.path()), &["--set", set])));
    let rules = of_kind(&all, "PrometheusRule");
    let rule = rules.iter().find(|rule| identity(rule).2 == "lem-a-test").unwrap();
    assert_eq!(rule["spec"], serde_yaml::from_str::<serde_yaml::Value>(RULES).unwrap());
    assert_eq!(rule["metadata"]["labels"]["release"], "stack");
    let dashboards = of_kind(&all, "ConfigMap");
    let is_ours = |map: &&&serde_yaml::Value| identity(map).2 == "lem-dashboard-a-test";
    let dashboard = dashboards.iter().find(is_ours).unwrap();
    assert_eq!(dashboard["data"]["a-test.json"], DASHBOARD);
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn every_rule_and_dashboard_of_the_chart_is_rendered_once() {
    let set = "monitoring.rules.enabled=true,monitoring.dashboards.enabled=true";
    let all = objects(&printed(&template(&chart("lem"), &["--set", set])));
    for (folder, kind) in [("rules", "PrometheusRule"), ("dashboards", "ConfigMap")] {
        let files = fs::read_dir(chart("lem").join(folder)).map_or(0, Iterator::count);
        assert_eq!(of_kind(&all, kind).len(), files, "{folder}");
    }
}
