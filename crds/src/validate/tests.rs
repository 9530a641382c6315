//! Each kind of mistake, by its message.

use serde_json::json;

use super::*;

fn manifest(patch: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "lem.dev/v1alpha1", "kind": "EfficiencyExperiment", "metadata": {"name": "quick"},
        "spec": {"model": {"name": "m", "source": {"directory": {"path": "model.gguf"}}}}
    });
    merge(&mut manifest, patch);
    manifest
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn complaint(patch: &Value) -> String {
    let violations = experiment(&manifest(patch)).expect_err("the manifest was admitted");
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_model_alone_is_an_experiment_with_the_documented_defaults() {
    let experiment = experiment(&manifest(&json!({}))).unwrap();
    assert_eq!(experiment.spec.protocol.cycles, 3);
    assert_eq!(experiment.spec.energy.sample_interval.to_string(), "100ms");
}

#[test]
fn an_unknown_field_is_named_with_the_field_that_was_meant() {
    let text = complaint(&json!({"spec": {"workload": {"maxOuputTokens": 3}}}));
    assert_eq!(
        text,
        "spec.workload.maxOuputTokens: unknown field; did you mean maxOutputTokens?"
    );
}

#[test]
fn each_kind_of_violation_names_its_field_and_the_remedy() {
    for (patch, path, words) in [
        (
            json!({"spec": {"workload": {"requests": 0}}}),
            "spec.workload.requests",
            "at least 1",
        ),
        (
            json!({"spec": {"workload": {"requests": "8"}}}),
            "spec.workload.requests",
            "integer",
        ),
        (
            json!({"spec": {"protocol": {"cycles": 101}}}),
            "spec.protocol.cycles",
            "at most 100",
        ),
        (
            json!({"spec": {"protocol": {"baseline": {"duration": "5"}}}}),
            "spec.protocol.baseline.duration",
            "100ms",
        ),
        (
            json!({"spec": {"energy": {"gpu": "auto"}}}),
            "spec.energy.gpu",
            "Auto, Required, Disabled",
        ),
        (
            json!({"spec": {"energy": {"sampleInterval": "1ms"}}}),
            "spec.energy",
            "20ms",
        ),
        (
            json!({"spec": {"engine": {"candle": {"batching": {"static": {"batchSize": 4}}}}}}),
            "spec.workload.arrival.closedLoop.concurrency",
            "never full",
        ),
        (
            json!({"spec": {"engine": {"candle": {"implementation": "Transformers", "batching": {"continuous": {}}}}}}),
            "spec.engine.candle",
            "one sequence at a time",
        ),
        (
            json!({"spec": {"decoder": {"doSample": true}}}),
            "spec.decoder",
            "temperature above 0",
        ),
        (
            json!({"spec": {"decoder": {"topP": "1.5"}}}),
            "spec.decoder",
            "at most 1",
        ),
        (
            json!({"spec": {"engine": {"candle": {"device": "Cuda"}}, "processes": {"gpusPerProcess": 0}}}),
            "gpusPerProcess",
            "needs a GPU",
        ),
        (
            json!({"spec": {"model": {"source": {"synthetic": {}}}}}),
            "spec.model.source",
            "exactly one",
        ),
        (
            json!({"spec": {"sweep": [{"field": "workload.maxOutputToken", "values": [1]}]}}),
            "spec.sweep[0].field",
            "workload.maxOutputTokens",
        ),
        (
            json!({"metadata": {"name": "Quick_Start"}}),
            "metadata.name",
            "lower-case",
        ),
        (
            json!({"kind": "EfficiencyExperiments"}),
            "kind",
            "must be EfficiencyExperiment",
        ),
        (
            json!({"spec": {"pricing": {"powerUsageEffectiveness": "0.9"}}}),
            "spec.pricing",
            "at least 1",
        ),
    ] {
        let text = complaint(&patch);
        assert!(
            text.contains(path) && text.contains(words),
            "for {patch} the message was:\n{text}"
        );
    }
}

#[test]
fn what_the_api_server_makes_of_empty_fields_and_whole_numbers_is_admitted_here_too() {
    let patch = json!({"spec": {
        "engine": null, "pricing": null, "workload": {"requests": 8.0, "prompts": null},
        "runner": {"resources": {"requests": {"memory": 8_589_934_592_u64}}},
    }});
    let spec = experiment(&manifest(&patch)).unwrap().spec;
    assert_eq!(spec.workload.requests, 8);
    assert_eq!(
        spec.runner.unwrap().resources.unwrap().requests["memory"].to_string(),
        "8589934592"
    );
}

#[test]
fn a_value_of_a_sweep_is_held_to_the_rules_of_its_field() {
    let admitted = experiment(&manifest(&json!({}))).unwrap();
    let mut replaced = serde_json::to_value(&admitted.spec).unwrap();
    assert_eq!(spec(&replaced), Ok(()));
    replaced["workload"]["requests"] = json!(0);
    replaced["decoder"]["doSample"] = json!(true);
    let said: Vec<String> = spec(&replaced).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "spec.workload.requests: must be at least 1, found 0",
            "spec.decoder: sampling needs a temperature above 0: set decoder.temperature, or decoder.doSample to false",
        ]
    );
}

#[test]
fn two_sources_at_once_are_refused() {
    let text = complaint(&json!({"spec": {"model": {"source": {"synthetic": {"preset": "tiny-test"}}}}}));
    assert!(
        text.contains("spec.model.source") && text.contains("exactly one of"),
        "{text}"
    );
}

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, yaml) in crate::custom_resource_definitions().unwrap() {
        let committed = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap_or_default();
        assert!(
            committed == yaml,
            "crds/{name}.yaml is out of date: run `make generate`"
        );
    }
}

#[test]
fn both_definitions_stay_under_the_limit_of_client_side_apply() {
    for (name, yaml) in crate::custom_resource_definitions().unwrap() {
        // kubectl keeps what was applied as JSON in an annotation, and all annotations may have 256 KiB.
        let definition: serde_json::Value = serde_yaml::from_str(&yaml).unwrap();
        let applied = definition.to_string().len();
        assert!(applied < 200 * 1024, "{name} has {applied} bytes");
    }
}

#[test]
fn a_part_of_a_pod_is_kept_whatever_stands_in_it() {
    let patch = json!({"containers": [{"name": "runner", "ports": [{"containerPort": 9464}]}], "priority": 7});
    let runner = json!({"spec": {"runner": {"podPatch": patch}}});
    let admitted = experiment(&manifest(&runner)).unwrap();
    assert_eq!(json!(admitted.spec.runner.unwrap().pod_patch), patch);
}

#[test]
fn a_preset_that_does_not_exist_is_found_in_the_model_and_in_the_sweep_that_takes_its_place() {
    let said = |spec: &Value| -> Vec<String> {
        let source = json!({"synthetic": {"preset": "lama-3.1-8b"}, "directory": null});
        let mut manifest = manifest(&json!({"spec": {"model": {"source": source}}}));
        merge(&mut manifest, &json!({ "spec": spec }));
        let experiment = experiment(&manifest).unwrap();
        let found = presets(&experiment.spec, "spec");
        found.iter().map(ToString::to_string).collect()
    };
    let alone = said(&json!({}));
    assert!(
        alone.len() == 1
            && alone[0].starts_with("spec.model.source.synthetic.preset: there is no preset \"lama-3.1-8b\"")
            && alone[0].ends_with("did you mean llama-3.1-8b?"),
        "{alone:?}"
    );
    let axis = json!({"field": "model.source.synthetic.preset", "values": ["tiny-test", "gpt-17"]});
    let swept = said(&json!({ "sweep": [axis] }));
    assert!(
        swept.len() == 1 && swept[0].starts_with("spec.sweep[0].values[1]: there is no preset \"gpt-17\""),
        "{swept:?}"
    );
    let known = PRESETS.map(|name| said(&json!({"model": {"source": {"synthetic": {"preset": name}}}})));
    assert!(known.iter().all(Vec::is_empty), "{known:?}");
}
