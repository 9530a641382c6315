//! A started experiment is immutable: every field, changed, added and removed.

use kube::{
    Api,
    api::{Patch, PatchParams, ValidationDirective},
};
use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use serde_json::{Value, json};

use crate::{
    experiment::with,
    world::{World, described},
};

const IMMUTABLE: &str = "the spec of a started experiment is immutable but for suspend, cancel and budget";

/// Every optional part of the spec.
fn optional() -> Value {
    json!({
        "sweep": [{"field": "decoder.seed", "values": [1, 2]}],
        "pricing": {"energyPricePerKilowattHour": "0.3"},
        "placement": {"nodeSelector": {"kubernetes.io/os": "linux"}},
        "runner": {"env": [{"name": "RUST_LOG", "value": "debug"}]},
        "ttlSecondsAfterFinished": {"success": 60},
        "objective": {"minimise": "joulesPerToken"},
    })
}

/// A change of every part that is always there.
fn changes() -> Value {
    json!({
        "model": {"name": "another"},
        "engine": {"candle": {"dtype": "F32"}},
        "workload": {"requests": 9},
        "decoder": {"seed": 1},
        "processes": {"count": 2},
        "protocol": {"cycles": 9},
        "energy": {"cpu": "Disabled"},
    })
}

/// Asks for a change without making it.
async fn attempt(world: &World, name: &str, spec: &Value) -> Result<(), String> {
    let api: Api<EfficiencyExperiment> = world.api();
    let parameters = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let patch = json!({"spec": spec});
    match api.patch(name, &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn no_part_of_a_started_experiment_can_be_changed_added_or_removed() {
    let world = World::of("transitions").await;
    // A suspended experiment has started and needs no node.
    let whole = {
        let mut whole = optional();
        whole["suspend"] = json!(true);
        whole
    };
    world.apply(&with("bare", 1, 1, &json!({"suspend": true}))).await;
    world.apply(&with("whole", 1, 1, &whole)).await;
    for name in ["bare", "whole"] {
        let status = world
            .until(name, "the experiment suspended", |status| {
                status.phase == ExperimentPhase::Suspended
            })
            .await;
        assert_eq!(status.failures.len(), 0, "{}", described(&status));
    }

    let mut admitted = Vec::new();
    let always = changes();
    let always = always.as_object().unwrap().iter();
    let optional = optional();
    let part = |key: &str, value: &Value| json!({key: value});
    let mut attempts: Vec<(&str, String, Value)> = always
        .map(|(key, value)| ("bare", format!("change {key}"), part(key, value)))
        .collect();
    for (key, value) in optional.as_object().unwrap() {
        attempts.push(("bare", format!("add {key}"), part(key, value)));
        attempts.push(("whole", format!("remove {key}"), part(key, &Value::Null)));
    }
    for (key, value) in [
        ("sweep", json!([{"field": "decoder.seed", "values": [1, 2, 3]}])),
        ("pricing", json!({"energyPricePerKilowattHour": null})),
        ("placement", json!({"nodeSelector": {"pool": "h100"}})),
        ("runner", json!({"image": "another"})),
        ("ttlSecondsAfterFinished", json!({"failure": 60})),
    ] {
        attempts.push(("whole", format!("change {key}"), part(key, &value)));
    }
    for (name, what, spec) in &attempts {
        match attempt(&world, name, spec).await {
            Err(words) if words.contains(IMMUTABLE) && words.contains("Create another") => {}
            other => admitted.push(format!("{what}: {other:?}")),
        }
    }
    assert!(admitted.is_empty(), "{admitted:#?}");

    for allowed in [
        json!({"suspend": false}),
        json!({"cancel": true}),
        json!({"budget": {"maxEnergyJoules": 1_000_000}}),
        json!({"budget": null}),
    ] {
        assert_eq!(attempt(&world, "bare", &allowed).await, Ok(()), "{allowed}");
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn a_cancelled_experiment_stays_cancelled() {
    let world = World::of("cancelled").await;
    let cancelled = json!({"suspend": true, "cancel": true});
    world.apply(&with("cancelled", 1, 1, &cancelled)).await;
    for back in [json!({"cancel": false}), json!({"cancel": null})] {
        let words = attempt(&world, "cancelled", &back).await.unwrap_err();
        assert!(
            words.contains("a cancelled experiment stays cancelled: create another one"),
            "{words}"
        );
    }
}
