//! Every query of every panel and every rule, against what was measured.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    preview::{Panel, page},
    scene::{rendered, scene},
    world::repository,
};

/// A panel and its queries.
#[derive(Debug)]
struct Source {
    dashboard: String,
    title: String,
    description: String,
    unit: String,
    expressions: Vec<String>,
}

/// The dashboards as the rendered `ConfigMaps` hold them.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for map in rendered().iter().filter(|object| object["kind"] == "ConfigMap") {
        for (file, text) in map["data"].as_object().into_iter().flatten() {
            let dashboard: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            collect(file, &dashboard["panels"], &mut found);
        }
    }
    found
}

fn collect(file: &str, panels: &Value, found: &mut Vec<Source>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for panel in panels.as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        let expressions: Vec<String> = targets
            .map(|target| with_variables(target["expr"].as_str().unwrap()))
            .collect();
        if !expressions.is_empty() {
            found.push(Source {
                dashboard: file.to_owned(),
                title: text(&panel["title"]),
                description: text(&panel["description"]),
                unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
                expressions,
            });
        }
        collect(file, &panel["panels"], found);
    }
}

/// What Grafana puts in for its variables when everything is selected.
fn with_variables(expression: &str) -> String {
    let values = [
        ("$__rate_interval", "15s"),
        ("$__interval", "30s"),
        ("$__range", "1h"),
        ("$operator_namespace", ".*"),
        ("$namespace", ".*"),
        ("$experiment", ".*"),
        ("$node_class", ".*"),
        ("$model", ".*"),
        ("$point", ".*"),
        ("$job", ".*"),
        ("$price", "0.25"),
    ];
    let replaced = values
        .iter()
        .fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    // `$1` is a group of label_replace.
    let rest = replaced.split('$').skip(1);
    let mut variables = rest.filter(|rest| rest.starts_with(|letter: char| !letter.is_ascii_digit()));
    assert_eq!(variables.next(), None, "a variable without a value in {replaced}");
    replaced
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn every_panel_has_shown_something() {
    let scene = scene().await;
    let sources = sources();
    assert!(sources.len() > 40, "{}", sources.len());
    let mut empty = Vec::new();
    let mut panels = Vec::new();
    for source in sources {
        let place = format!("{}, panel {}", source.dashboard, source.title);
        if source.description.is_empty() {
            empty.push(format!("{place}: no description"));
        }
        let mut series = Vec::new();
        for expression in &source.expressions {
            match scene.prometheus.history(expression, scene.since) {
                Ok(found) if found.is_empty() => empty.push(format!("{place}: no data: {expression}")),
                Ok(found) => series.extend(found),
                Err(error) => empty.push(format!("{place}: {error}: {expression}")),
            }
        }
        panels.push(Panel {
            dashboard: source.dashboard,
            title: source.title,
            description: source.description,
            unit: source.unit,
            series,
        });
    }
    let folder = repository().join("target/observe");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("dashboards.html"), page(&panels)).unwrap();
    assert!(empty.is_empty(), "{}", empty.join("\n"));
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn every_recorded_ratio_has_been_recorded_and_no_rule_fails() {
    let scene = scene().await;
    let rendered = rendered();
    let rules = rendered
        .iter()
        .filter(|object| object["kind"] == "PrometheusRule")
        .flat_map(|rule| rule["spec"]["groups"].as_array().unwrap())
        .flat_map(|group| group["rules"].as_array().unwrap());
    let mut empty = Vec::new();
    for rule in rules {
        if let Some(name) = rule["record"].as_str() {
            let found = scene.prometheus.history(name, scene.since).unwrap();
            if found.is_empty() {
                empty.push(name.to_owned());
            }
        } else {
            // An alert need not fire, but it has to be a query that can be answered.
            scene.prometheus.query(rule["expr"].as_str().unwrap());
        }
    }
    assert!(empty.is_empty(), "never recorded: {empty:?}");
    let failures = scene
        .prometheus
        .query("sum(prometheus_rule_evaluation_failures_total) > 0");
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn the_wasteful_node_raises_its_alert_and_nothing_says_that_the_operator_is_down() {
    let scene = scene().await;
    let raised = |expression: &str| -> BTreeSet<String> {
        let found = scene.prometheus.history(expression, scene.since).unwrap();
        found
            .into_iter()
            .map(|series| series.metric["alertname"].clone())
            .collect()
    };
    // It is pending for five minutes, as all alerts are for a while.
    let pending = raised("ALERTS");
    assert!(pending.contains("LemNodeOutlier"), "{pending:?}");
    let firing = raised(r#"ALERTS{alertstate="firing"}"#);
    assert!(!firing.contains("LemOperatorDown"), "{firing:?}");
}

#[tokio::test]
#[ignore = "needs root and the cluster's programs"]
async fn every_name_that_is_exposed_is_documented() {
    let scene = scene().await;
    let page = std::fs::read_to_string(repository().join("docs/prometheus.md")).unwrap();
    let all = r#"count by (__name__) (last_over_time({__name__=~"lem_.+"}[1h]))"#;
    let found = scene.prometheus.query(all);
    assert!(found.len() > 80, "{}", found.len());
    let documented = |name: &str| {
        let family = ["", "_lower", "_upper", "_bucket", "_sum", "_count"].map(|suffix| name.strip_suffix(suffix));
        let mut families = family.into_iter().flatten();
        families.any(|family| page.contains(&format!("`{family}`")) || page.contains(&format!("`{family}{{")))
    };
    let names = found.iter().map(|series| series.metric["__name__"].as_str());
    let missing: Vec<&str> = names.filter(|name| !documented(name)).collect();
    assert!(missing.is_empty(), "not in docs/prometheus.md: {missing:?}");
}
