//! Whole objects, as the API server gets them.

use jiff::Timestamp;
use kube::ResourceExt;
use lem_crds::{EfficiencyExperimentSpec, plan::TrialIdentity, runner::Assignment, validate};
use serde_json::{Value, json};

use super::{CohortObjects, CohortPlan, Defaults, Owner, cohort, fleet_access};
use crate::experiment::{self, tests::fixtures};

fn built(spec: &Value) -> CohortObjects {
    built_with(spec, false)
}

fn built_with(spec: &Value, node_agent: bool) -> CohortObjects {
    built_for(spec, node_agent, None)
}

fn built_for(spec: &Value, node_agent: bool, node: Option<&str>) -> CohortObjects {
    let spec: EfficiencyExperimentSpec = fixtures::spec(spec);
    let points = experiment::plan(&spec).unwrap();
    let point = &points[0];
    cohort(&CohortPlan {
        upcoming: &[],
        owner: &Owner {
            name: "quick".to_owned(),
            namespace: "lab".to_owned(),
            uid: "11111111-2222-3333-4444-555555555555".to_owned(),
        },
        spec: &spec,
        pod_patch: &validate::pod_patch(&spec.runner.clone().unwrap_or_default().pod_patch).unwrap(),
        defaults: &Defaults {
            runner_image: "registry.example/lem-runner:1".to_owned(),
            runner_image_gpu: Some("registry.example/lem-runner-cuda:1".to_owned()),
            node_agent,
        },
        key: "0123456789",
        incarnation: 0,
        node,
        gpu_sharing: None,
        load: &point.load,
        trials: 6,
        assignment: &Assignment {
            trial: TrialIdentity {
                plan_sha256: "abc".to_owned(),
                point: 0,
                cycle: 0,
                attempt: 0,
            },
            window: point.window.clone(),
            assigned_at: Some(Timestamp::from_second(1_800_000_000).unwrap()),
            start_at: None,
        },
    })
}

fn pod(spec: &Value) -> Value {
    json!(built(spec).job)["spec"]["template"]["spec"].clone()
}

fn environment(pod: &Value, name: &str) -> Option<Value> {
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name).cloned()
}

#[test]
fn the_job_of_a_plain_experiment_is_as_documented() {
    insta::assert_yaml_snapshot!(built(&json!({"processes": {"count": 3}})).job);
}

#[test]
fn pods_may_touch_their_own_mailboxes_and_nothing_else() {
    let objects = built(&json!({"processes": {"count": 2}}));
    let access = objects.access.unwrap();
    insta::assert_yaml_snapshot!((&access.service_account, &access.role, &access.role_binding));
}

#[test]
fn a_mailbox_holds_the_first_trial_before_its_pod_exists() {
    let objects = built(&json!({"processes": {"count": 2}}));
    let names: Vec<_> = objects
        .runners
        .iter()
        .map(|runner| runner.metadata.name.clone().unwrap())
        .collect();
    let job = objects.job.metadata.name.unwrap();
    assert_eq!(names, [format!("{job}-0"), format!("{job}-1")]);
    insta::assert_yaml_snapshot!(objects.runners[1]);
}

#[test]
fn a_process_of_one_node_is_kept_to_it_by_the_scheduler_and_shares_the_account_of_its_fleet() {
    let spec = json!({"placement": {"strategy": "EachNode"}, "ttlSecondsAfterFinished": {"success": 60}});
    let objects = built_for(&spec, false, Some("node-a"));
    let other = built_for(&spec, false, Some("node-b"));
    assert_ne!(objects.job.metadata.name, other.job.metadata.name);
    assert_eq!(objects.access, None);
    let owner = Owner {
        name: "quick".to_owned(),
        namespace: "lab".to_owned(),
        uid: "11111111-2222-3333-4444-555555555555".to_owned(),
    };
    let names: Vec<String> = objects.runners.iter().map(ResourceExt::name_any).collect();
    let access = fleet_access(&owner, &names);
    assert_eq!(
        access.service_account.metadata.name,
        objects.runners[0].spec.service_account_name
    );
    let job = json!(objects.job);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], json!(access.service_account.metadata.name));
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 60);
    insta::assert_yaml_snapshot!((&pod["affinity"], &access.role.rules, &objects.runners[0].spec.node));
    assert_eq!(pod["topologySpreadConstraints"], Value::Null);
}

#[test]
fn everything_is_owned_by_the_experiment_so_that_nothing_outlives_it() {
    let objects = built(&json!({"processes": {"count": 2}}));
    let access = objects.access.as_ref().unwrap();
    let mut metadata = vec![
        &access.service_account.metadata,
        &access.role.metadata,
        &access.role_binding.metadata,
        &objects.job.metadata,
    ];
    metadata.extend(objects.runners.iter().map(|runner| &runner.metadata));
    for one in metadata {
        let owner = &one.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.controller),
            ("EfficiencyExperiment", Some(true))
        );
    }
}

#[test]
fn processes_with_gpus_run_the_image_that_was_made_for_them_unless_the_experiment_names_one() {
    let image = |spec: Value| pod(&spec)["containers"][0]["image"].clone();
    assert_eq!(
        image(json!({"processes": {"gpusPerProcess": 0}})),
        "registry.example/lem-runner:1"
    );
    let with_gpus = json!({"processes": {"gpusPerProcess": 1}});
    assert_eq!(image(with_gpus), "registry.example/lem-runner-cuda:1");
    let named = json!({"processes": {"gpusPerProcess": 1}, "runner": {"image": "mine:2"}});
    assert_eq!(image(named), "mine:2");
}

#[test]
fn placement_and_container_follow_the_spec() {
    let pod = pod(&json!({
        "processes": {"gpusPerProcess": 2},
        "placement": {"nodeSelector": {"pool": "h100"}, "runtimeClassName": "nvidia",
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        "runner": {"image": "mine:2", "imagePullPolicy": "Never", "imagePullSecrets": ["registry"],
            "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
            "env": [{"name": "RUST_LOG", "value": "debug"}]},
    }));
    let container = &pod["containers"][0];
    assert_eq!(
        (container["image"].as_str(), container["imagePullPolicy"].as_str()),
        (Some("mine:2"), Some("Never"))
    );
    assert_eq!(
        container["resources"],
        json!({
        "requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "2"}})
    );
    assert_eq!(pod["nodeSelector"]["pool"], "h100");
    assert_eq!(pod["runtimeClassName"], "nvidia");
    assert_eq!(pod["tolerations"][0]["key"], "gpu");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "registry");
    assert_eq!(environment(&pod, "RUST_LOG").unwrap()["value"], "debug");
}

#[test]
fn claims_take_the_place_of_the_device_plugins_resource() {
    let pod = pod(&json!({
        "processes": {"gpusPerProcess": 2},
        "placement": {"resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]},
    }));
    assert_eq!(
        pod["resourceClaims"],
        json!([{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}])
    );
    assert_eq!(pod["containers"][0]["resources"], json!({"claims": [{"name": "gpus"}]}));
}

#[test]
fn a_process_with_gpus_stays_off_nodes_that_share_them_or_is_told_that_they_may() {
    let terms = |pod: &Value| {
        pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
    };
    let expressions = |pod: &Value| terms(pod)[0]["matchExpressions"].clone();
    let refuses = pod(&json!({"processes": {"gpusPerProcess": 1}}));
    assert_eq!(
        expressions(&refuses),
        json!([{"key": "nvidia.com/gpu.sharing-strategy", "operator": "NotIn", "values": ["time-slicing", "mps"]}])
    );
    assert_eq!(environment(&refuses, "LEM_GPU_SHARING"), None);
    let marks = pod(&json!({"processes": {"gpusPerProcess": 1}, "placement": {"sharedGpus": "Mark"}}));
    assert_eq!(expressions(&marks), Value::Null);
    assert_eq!(environment(&marks, "LEM_GPU_SHARING").unwrap()["value"], "unknown");
    let patched = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]);
    let patched = json!({"affinity": {"nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": patched}}}});
    let beside = json!({"processes": {"gpusPerProcess": 1}, "runner": {"podPatch": patched}});
    for term in terms(&pod(&beside)).as_array().unwrap() {
        let keys: Vec<&Value> = term["matchExpressions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["key"])
            .collect();
        assert_eq!(
            keys,
            ["zone", "nvidia.com/gpu.sharing-strategy"],
            "beside what a patch asks for"
        );
    }
    let of_a_fleet = json!(built_for(&beside, false, Some("node-a")).job)["spec"]["template"]["spec"].clone();
    for term in terms(&of_a_fleet).as_array().unwrap() {
        assert_eq!(
            term["matchFields"][0]["values"][0], "node-a",
            "a patch takes no node of a fleet away"
        );
    }
    let on_cpus = pod(&json!({"processes": {"gpusPerProcess": 0}, "placement": {"sharedGpus": "Mark"}}));
    assert_eq!(environment(&on_cpus, "LEM_GPU_SHARING"), None);
}

#[test]
fn a_process_without_gpus_asks_for_none() {
    let pod = pod(&json!({"processes": {"gpusPerProcess": 0}}));
    assert_eq!(
        pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"],
        Value::Null
    );
}

#[test]
fn with_the_node_agent_a_process_on_cpus_takes_its_nodes_slot_and_one_on_gpus_a_meter_if_it_reads() {
    let limits = |spec: Value, node_agent| {
        json!(built_with(&spec, node_agent).job)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
            .clone()
    };
    let cpus_with = |cpu: &str| json!({"processes": {"gpusPerProcess": 0}, "energy": {"cpu": cpu}});
    let two_gpus_with = |cpu: &str| json!({"processes": {"gpusPerProcess": 2}, "energy": {"cpu": cpu}});
    for cpu in ["Auto", "Rapl", "Estimate", "Disabled"] {
        assert_eq!(
            limits(cpus_with(cpu), true),
            json!({"lem.dev/measurement-slot": "1"}),
            "{cpu}"
        );
        assert_eq!(limits(cpus_with(cpu), false), Value::Null, "{cpu}");
        assert_eq!(
            limits(two_gpus_with(cpu), false),
            json!({"nvidia.com/gpu": "2"}),
            "{cpu}"
        );
    }
    for cpu in ["Auto", "Rapl"] {
        let expected = json!({"nvidia.com/gpu": "2", "lem.dev/energy-meter": "1"});
        assert_eq!(limits(two_gpus_with(cpu), true), expected, "{cpu}");
    }
    for cpu in ["Estimate", "Disabled"] {
        assert_eq!(
            limits(two_gpus_with(cpu), true),
            json!({"nvidia.com/gpu": "2"}),
            "{cpu}"
        );
    }
}

#[test]
fn with_the_node_agent_the_job_differs_by_its_resource_alone() {
    let spec = json!({"processes": {"count": 2, "gpusPerProcess": 0}});
    insta::assert_yaml_snapshot!(built_with(&spec, true).job);
}

#[test]
fn each_source_of_a_model_brings_its_volume_or_its_secret() {
    let source = |source: Value| pod(&json!({"model": {"name": "owner/name", "source": source}}));
    let claim = source(json!({"persistentVolumeClaim": {"claimName": "models", "path": "llama"}}));
    assert_eq!(
        claim["volumes"][1]["persistentVolumeClaim"],
        json!({"claimName": "models", "readOnly": true})
    );
    assert_eq!(claim["containers"][0]["volumeMounts"][1]["mountPath"], "/lem/model");
    let image = source(json!({"image": {"reference": "models/llama@sha256:0"}}));
    assert_eq!(image["volumes"][1]["image"]["reference"], "models/llama@sha256:0");
    let hub = source(json!({"huggingFace": {"revision": "main", "tokenSecretRef": {"name": "hub", "key": "token"}}}));
    let token = environment(&hub, "HF_TOKEN").unwrap();
    assert_eq!(
        token["valueFrom"]["secretKeyRef"],
        json!({"name": "hub", "key": "token", "optional": false})
    );
    assert_eq!(hub["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn prompts_of_a_config_map_are_mounted_by_their_key() {
    let pod = pod(&json!({"model": {"name": "m", "source": {"image": {"reference": "m"}}},
        "workload": {"prompts": {"configMapRef": {"name": "questions", "key": "easy.jsonl"}}}}));
    assert_eq!(
        pod["volumes"][2]["configMap"],
        json!({"name": "questions", "optional": false,
        "items": [{"key": "easy.jsonl", "path": "easy.jsonl"}]})
    );
    assert_eq!(pod["containers"][0]["volumeMounts"][2]["mountPath"], "/lem/prompts");
}

#[test]
fn a_patch_adds_to_the_pod_and_leaves_what_the_operator_relies_on() {
    let patch = json!({"runner": {
        "env": [{"name": "HF_ENDPOINT", "value": "http://hub"}],
        "podPatch": {
            "priorityClassName": "batch",
            "securityContext": {"fsGroup": 2000},
            "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory"}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "hub"}},
            ],
            "containers": [{
                "name": "runner",
                "env": [
                    {"name": "HF_HOME", "value": "/cache"},
                    {"name": "SITE", "valueFrom": {"configMapKeyRef": {"name": "site", "key": "name"}}},
                ],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            }],
        },
    }});
    let job = built(&patch).job;
    let pod = json!(job)["spec"]["template"]["spec"].clone();
    let plain = self::pod(&json!({}));
    for field in ["restartPolicy", "serviceAccountName", "affinity"] {
        assert_eq!(pod[field], plain[field], "{field}");
    }
    assert_eq!(
        pod["containers"].as_array().unwrap().len(),
        1,
        "containers are merged by name"
    );
    assert_eq!(pod["containers"][0]["args"], plain["containers"][0]["args"]);
    for variable in plain["containers"][0]["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(
            name == "HF_HOME" || environment(&pod, name).as_ref() == Some(variable),
            "{name}"
        );
    }
    insta::assert_yaml_snapshot!(job);
}

#[test]
fn a_cache_of_the_users_own_takes_the_place_of_the_scratch_space() {
    let pod = pod(&json!({"runner": {"env": [{"name": "HF_HOME", "value": "/cache"}]}}));
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let values: Vec<_> = variables
        .iter()
        .filter(|variable| variable["name"] == "HF_HOME")
        .collect();
    assert_eq!(
        values,
        [&json!({"name": "HF_HOME", "value": "/cache"})],
        "the API server takes a name once"
    );
}
