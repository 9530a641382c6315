//! A `ServiceMonitor` or `PodMonitor` as a scrape configuration, as the Prometheus operator writes it. Pure.

use serde_json::{Value, json};

/// Short, so that the tests need not wait.
const INTERVAL: &str = "2s";

/// The scrape configuration of one monitor.
pub(crate) fn scrape_configuration(monitor: &Value, kubeconfig: &str) -> Value {
    let pods = monitor["kind"] == "PodMonitor";
    let spec = &monitor["spec"];
    let endpoint = &spec[if pods { "podMetricsEndpoints" } else { "endpoints" }][0];
    let (role, label, port) = if pods {
        (
            "pod",
            "__meta_kubernetes_pod_label_",
            "__meta_kubernetes_pod_container_port_name",
        )
    } else {
        (
            "endpointslice",
            "__meta_kubernetes_service_label_",
            "__meta_kubernetes_endpointslice_port_name",
        )
    };
    let keep = |source: String, pattern: &Value| json!({"action": "keep", "source_labels": [source], "regex": pattern});
    let selected = spec["selector"]["matchLabels"].as_object().into_iter().flatten();
    let mut relabelings: Vec<Value> = selected
        .map(|(name, value)| keep(format!("{label}{}", sanitised(name)), value))
        .collect();
    relabelings.push(keep(port.to_owned(), &endpoint["port"]));
    if pods {
        relabelings.push(
            json!({"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"}),
        );
    } else {
        relabelings.push(target("__meta_kubernetes_service_name", "service"));
    }
    relabelings.push(target("__meta_kubernetes_namespace", "namespace"));
    relabelings.push(target("__meta_kubernetes_pod_name", "pod"));
    let name = format!(
        "{}/{}",
        monitor["metadata"]["namespace"].as_str().unwrap(),
        monitor["metadata"]["name"].as_str().unwrap()
    );
    relabelings.push(json!({"target_label": "job", "replacement": name}));
    let own = endpoint["relabelings"].as_array().into_iter().flatten();
    relabelings.extend(own.map(in_snake_case));
    let mut discovery = json!({"role": role, "kubeconfig_file": kubeconfig});
    if let Some(names) = spec["namespaceSelector"]["matchNames"].as_array() {
        discovery["namespaces"] = json!({"names": names});
    }
    json!({
        "job_name": name,
        "scrape_interval": INTERVAL,
        "scrape_timeout": INTERVAL,
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint["honorLabels"].as_bool().unwrap_or(false),
        "kubernetes_sd_configs": [discovery],
        "relabel_configs": relabelings,
        "metric_relabel_configs": endpoint["metricRelabelings"].as_array().into_iter().flatten().map(in_snake_case).collect::<Vec<_>>(),
    })
}

fn target(source: &str, label: &str) -> Value {
    json!({"source_labels": [source], "target_label": label})
}

/// A name of a label as service discovery shows it.
fn sanitised(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    name.chars().map(letter).collect()
}

/// The fields of a relabeling as Prometheus names them.
fn in_snake_case(relabeling: &Value) -> Value {
    let fields = relabeling.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| {
            let mut snake = String::new();
            for letter in name.chars() {
                if letter.is_ascii_uppercase() {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_lowercase());
            }
            (snake, value.clone())
        })
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

#[test]
fn a_monitor_keeps_what_it_selects_and_its_own_relabelings() {
    let monitor = json!({
        "kind": "PodMonitor",
        "metadata": {"name": "runners", "namespace": "a"},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/component": "runner"}},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "relabelings": [{"sourceLabels": ["x"], "targetLabel": "y"}]}],
        },
    });
    let made = scrape_configuration(&monitor, "k");
    let relabelings = made["relabel_configs"].as_array().unwrap();
    let keep = json!({"action": "keep", "source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"], "regex": "runner"});
    assert!(relabelings.contains(&keep), "{made}");
    assert!(
        relabelings.contains(&json!({"source_labels": ["x"], "target_label": "y"})),
        "{made}"
    );
}
