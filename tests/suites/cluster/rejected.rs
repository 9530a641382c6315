//! Bad input: the API server, `lem validate` and the operator give the same answer.
//!
//! `tests/fixtures/rejected/` holds one experiment a file. Each begins with every complaint that its author must see,
//! `# must say: <field>: <words>`, exactly as `lem validate --cluster` prints it, and nothing beside them may be said.
//!
//! The same answer means: as many complaints, in the same fields, about the same thing. Where a rule is ours (CEL) the
//! words are the same to the letter. Where the words are the API server's own (types, bounds, unknown and missing fields,
//! enumerations, names) its wording is mapped onto ours by the one table in [`answer`], values included, and the complaint
//! must contain it; ours then adds the value found, the meaning of the field, or the field that was meant. What the API
//! server says twice about one mistake counts once.
//!
//! Most are refused by the API server (a server-side dry run with strict field validation, as kubectl asks for). A file
//! that says `# refused by: operator` is admitted, because no schema can see its mistake: there the message of the
//! condition `Validated` is what `lem validate` says, to the letter. One that says `# refused by: kubectl` names a kind
//! that no server has.
//!
//! Both sides get the same JSON. kubectl reads YAML 1.1, in which `yes`, `no`, `on` and `off` without quotes are booleans,
//! and `lem` YAML 1.2, in which they are texts: for those words alone the answers can differ.

mod answer;
mod manifest;
mod transition;

use std::process::Command;

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use lem_crds::{EfficiencyExperiment, status::ExperimentPhase};
use serde_json::json;

use self::{
    answer::{Said, agree},
    manifest::{By, Manifest},
};
use crate::world::{World, binaries, condition, described, repository};

/// What `lem validate` says of each of the files, by its complaints; an empty list means valid.
fn lem(arguments: &[&str], files: &[&Manifest]) -> Vec<Vec<String>> {
    let paths = files.iter().map(|manifest| &manifest.path);
    let output = Command::new(binaries().join("lem"))
        .arg("validate")
        .args(arguments)
        .args(paths)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let valid = String::from_utf8(output.stdout).unwrap();
    assert!(!errors.contains("panicked"), "{errors}");
    let all_valid = errors.is_empty();
    assert_eq!(output.status.code(), Some(if all_valid { 0 } else { 2 }), "{errors}");
    let of_file = |manifest: &&Manifest| {
        let path = manifest.path.display();
        let begin = format!("error: {path}: ");
        if valid.contains(&format!("{path}: ")) {
            return Vec::new();
        }
        let whole = format!("\n{errors}");
        let mut said = whole.split("\nerror: ").filter_map(|one| {
            let rest = format!("error: {}", one.trim_end());
            rest.strip_prefix(&begin).map(ToOwned::to_owned)
        });
        let text = said
            .next()
            .unwrap_or_else(|| panic!("nothing is said of {path}: {errors}"));
        let name = format!("{}: ", manifest.name());
        let text = text.strip_prefix(&name).unwrap_or(&text).to_owned();
        match text.split_once(" errors\n") {
            Some((_, many)) => many.lines().map(|line| line.trim().to_owned()).collect(),
            None => vec![text],
        }
    };
    files.iter().map(of_file).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn lem_validate_says_of_every_rejected_manifest_what_its_author_must_see() {
    let corpus = manifest::corpus();
    assert!(corpus.len() >= 60, "{}", corpus.len());
    let files: Vec<&Manifest> = corpus.iter().collect();
    let mut wrong = Vec::new();
    for (manifest, said) in files.iter().zip(lem(&["--cluster"], &files)) {
        if sorted(said.clone()) != sorted(manifest.must_say.clone()) {
            wrong.push(format!("{}: {said:#?}", manifest.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn the_api_server_refuses_the_same_manifests_for_the_same_reasons() {
    let world = World::of("rejected_by_the_api_server").await;
    let mut wrong = Vec::new();
    for manifest in manifest::corpus() {
        let answer = answer::dry_run(&world, &manifest.json).await;
        let verdict = match (manifest.by, answer) {
            (By::ApiServer, Said::Refused(causes)) => agree(&causes, &manifest.must_say),
            (By::ApiServer, Said::Admitted) => Err("the API server admits it".to_owned()),
            (By::Operator, Said::Admitted) | (By::Kubectl, _) => Ok(()),
            (By::Operator, Said::Refused(causes)) => Err(format!("already refused: {causes:?}")),
        };
        if let Err(words) = verdict {
            wrong.push(format!("{}: {words}", manifest.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn kubectl_refuses_a_kind_or_version_that_is_not_there_and_names_it() {
    let world = World::of("rejected_by_kubectl").await;
    let corpus = manifest::corpus();
    let unknown: Vec<_> = corpus.iter().filter(|manifest| manifest.by == By::Kubectl).collect();
    assert_eq!(unknown.len(), 2);
    for manifest in unknown {
        let output = world
            .cluster
            .kubectl()
            .args(["apply", "--dry-run=server", "-f"])
            .arg(&manifest.path)
            .output()
            .unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        let found = manifest.must_say[0].rsplit(' ').next().unwrap();
        assert!(
            !output.status.success() && words.contains("no matches for kind") && words.contains(found),
            "{words}"
        );
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn every_example_is_admitted_by_the_api_server_and_by_lem_validate() {
    let world = World::of("admitted").await;
    let mut examples = manifest::folder(&repository().join("examples"));
    examples.extend(manifest::folder(&repository().join("examples/cluster")));
    examples.retain(|example| example.json["kind"] == "EfficiencyExperiment");
    assert!(examples.len() >= 5, "{}", examples.len());
    let files: Vec<&Manifest> = examples.iter().collect();
    for (example, said) in files.iter().zip(lem(&[], &files)) {
        assert_eq!(said, [""; 0], "{}", example.path.display());
        let answer = answer::dry_run(&world, &example.json).await;
        assert!(
            matches!(answer, Said::Admitted),
            "{}: {answer:?}",
            example.path.display()
        );
    }
}

#[tokio::test]
#[ignore = "starts a cluster: make test-cluster"]
async fn what_only_the_operator_sees_is_in_the_condition_validated_and_can_be_cured_by_an_edit() {
    let world = World::of("rejected_by_the_operator").await;
    let mut corpus = manifest::corpus();
    corpus.retain(|manifest| manifest.by == By::Operator);
    assert!(corpus.len() >= 5, "{}", corpus.len());
    for manifest in &corpus {
        let mut experiment: EfficiencyExperiment = serde_json::from_value(manifest.json.clone()).unwrap();
        experiment.metadata.name = Some(manifest.stem());
        // Nothing of it may run once it is cured: the nodes are for other tests.
        experiment.spec.suspend = true;
        world.apply(&experiment).await;
    }
    for manifest in &corpus {
        let name = manifest.stem();
        let status = world
            .until(&name, "the condition Validated", |status| !status.conditions.is_empty())
            .await;
        let [only] = status.conditions.as_slice() else {
            panic!("{name}: {}", described(&status));
        };
        assert_eq!(
            (only.type_.as_str(), only.status.as_str()),
            ("Validated", "False"),
            "{name}"
        );
        assert_eq!(std::slice::from_ref(&only.message), manifest.must_say, "{name}");
        assert_eq!(status.phase, ExperimentPhase::Pending, "{name}");
        let cure = json!({"spec": {"sweep": null, "runner": null, "workload": {"prompts": null},
            "model": {"source": {"directory": null, "synthetic": {"preset": "tiny-test"}}}}});
        let api: Api<EfficiencyExperiment> = world.api();
        let cured = api.patch(&name, &PatchParams::default(), &Patch::Merge(&cure)).await;
        let generation = cured.unwrap().metadata.generation;
        let status = world
            .until(&name, "the cure seen", |status| {
                status.observed_generation == generation
            })
            .await;
        let validated = condition(&status, "Validated");
        assert_eq!(validated.unwrap().status, "True", "{name}: {}", described(&status));
    }
}
