//! What every dashboard keeps to, so that each panel explains itself and shows what it should.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use crate::{files, links, repository};

/// Each dashboard with the name of its file.
fn dashboards() -> Vec<(String, Value)> {
    let paths = files(&repository().join("charts/lem/dashboards"), "json");
    let read = paths.iter().map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (
            name,
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap(),
        )
    });
    read.collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

/// Panels that show something.
fn figures(dashboard: &Value) -> impl Iterator<Item = &Value> {
    panels(dashboard).filter(|panel| panel["type"] != "row")
}

/// Every query of every panel and variable.
pub(crate) fn queries() -> Vec<String> {
    let mut queries = Vec::new();
    for (_, dashboard) in dashboards() {
        let targets = figures(&dashboard).flat_map(|panel| panel["targets"].as_array().unwrap());
        queries.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        queries.extend(
            variables
                .iter()
                .filter_map(|variable| Some(variable["definition"].as_str()?.to_owned())),
        );
    }
    queries
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_from_where() {
    for (name, dashboard) in dashboards() {
        assert_eq!(dashboard["uid"], format!("lem-{name}"));
        assert!(
            dashboard["schemaVersion"].as_u64().unwrap() >= 39,
            "{name} is older than Grafana 11"
        );
        for panel in figures(&dashboard) {
            let title = format!("{name}: {}", panel["title"]);
            assert!(
                panel["description"].as_str().is_some_and(|words| words.len() > 20),
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let defaults = &panel["fieldConfig"]["defaults"];
            let unit = |field: &Value| field["unit"].is_string();
            let table = panel["type"] == "table";
            assert!(table || unit(defaults), "{title} has no unit");
            assert!(
                !defaults["thresholds"]["steps"].as_array().unwrap().is_empty(),
                "{title}"
            );
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title}");
        }
    }
}

#[test]
fn panels_have_numbers_and_places_of_their_own() {
    for (name, dashboard) in dashboards() {
        let mut numbers = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = format!("{name}: {}", panel["title"]);
            assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{title}");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{title}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{title} lies over another panel");
                }
            }
        }
    }
}

#[test]
fn a_query_uses_variables_that_there_are() {
    let variable = Regex::new(r"\$\{?([a-z_]+)").unwrap();
    for (name, dashboard) in dashboards() {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let known: BTreeSet<&str> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
        for panel in figures(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                for used in variable
                    .captures_iter(query)
                    .map(|found| found.get(1).unwrap().as_str())
                {
                    assert!(
                        used.starts_with("__") || known.contains(used),
                        "{name}: {}: ${used}",
                        panel["title"]
                    );
                }
            }
        }
    }
}

/// Every text under the key `url`, at any depth.
fn urls(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("url").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| urls(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| urls(value, found)),
        _ => {}
    }
}

#[test]
fn dashboards_lead_to_each_other_and_to_runbooks() {
    let all = dashboards();
    let known: BTreeSet<&str> = all
        .iter()
        .map(|(_, dashboard)| dashboard["uid"].as_str().unwrap())
        .collect();
    for (name, dashboard) in &all {
        let mut found = Vec::new();
        // Links of a table's cells stand in a property.
        let mut properties = Vec::new();
        for panel in figures(dashboard) {
            for matcher in panel["fieldConfig"]["overrides"].as_array().unwrap() {
                properties.extend(
                    matcher["properties"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|one| one["value"].clone()),
                );
            }
        }
        urls(dashboard, &mut found);
        urls(&Value::Array(properties), &mut found);
        let to_others = dashboard["links"].as_array().unwrap().iter();
        assert!(to_others.clone().any(|link| link["type"] == "dashboards"), "{name}");
        assert!(found.iter().any(|url| url.contains("runbooks.md#")), "{name}");
        for url in found {
            match url.strip_prefix("/d/") {
                Some(rest) => assert!(known.contains(rest.split('?').next().unwrap()), "{name}: {url}"),
                None => assert_eq!(links::broken(&repository().join("README.md"), &url), None, "{name}"),
            }
        }
    }
}
