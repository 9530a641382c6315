//! Names in queries. The list is docs/prometheus.md.

use std::collections::BTreeSet;

use regex::Regex;
use serde_yaml::Value;

use crate::{dashboards, text};

/// Every name that a query may use.
fn documented() -> BTreeSet<String> {
    let page = text("docs/prometheus.md");
    let row = Regex::new(r"(?m)^\| `((?:point:|experiment:)?lem_[a-z0-9_:]+)` \| (.*) \|$").unwrap();
    let (with_bounds, _) = page.split_once("Without bounds:").unwrap();
    let mut names = BTreeSet::new();
    for found in row.captures_iter(&page) {
        let (name, meaning) = (&found[1], &found[2]);
        names.insert(name.to_owned());
        if with_bounds.contains(&format!("| `{name}` |")) {
            names.extend(["lower", "upper"].map(|bound| format!("{name}_{bound}")));
        }
        if meaning.starts_with("histogram") {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    names
}

/// The groups of a file of rules.
pub(crate) fn rules(file: &str) -> Vec<Value> {
    let rules: Value = serde_yaml::from_str(&text(&format!("charts/lem/rules/{file}.yaml"))).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().unwrap())
        .cloned()
        .collect()
}

/// Names of metrics in a query.
fn names(query: &str) -> Vec<String> {
    let name = Regex::new(r"\b(?:[a-z]+:)?lem_[a-z0-9_:]+").unwrap();
    name.find_iter(query).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn every_query_uses_documented_names_only() {
    let documented = documented();
    let mut queries = dashboards::queries();
    for rule in ["alerts", "recording"].into_iter().flat_map(rules) {
        queries.push(rule["expr"].as_str().unwrap().to_owned());
        let annotations = rule["annotations"]
            .as_mapping()
            .into_iter()
            .flat_map(|all| all.values());
        queries.extend(annotations.filter_map(Value::as_str).map(str::to_owned));
    }
    let used: BTreeSet<String> = queries.iter().flat_map(|query| names(query)).collect();
    let unknown: Vec<_> = used.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/prometheus.md: {unknown:?}");
    assert!(used.len() > 50, "only {used:?}");
}

#[test]
fn every_recorded_name_is_documented() {
    let documented = documented();
    for rule in rules("recording") {
        let name = rule["record"].as_str().unwrap();
        assert!(documented.contains(name), "{name} is not in docs/prometheus.md");
    }
}

#[test]
fn a_histogram_and_a_result_bring_their_suffixes_and_nothing_else() {
    let documented = documented();
    assert!(documented.contains("lem_operator_phase_duration_seconds_sum"));
    assert!(documented.contains("lem_point_joules_per_token_lower"));
    assert!(!documented.contains("lem_point_verdict_lower"));
    assert_eq!(
        names("rate(lem_a_total[1m]) / point:lem_b:mean"),
        ["lem_a_total", "point:lem_b:mean"]
    );
}
