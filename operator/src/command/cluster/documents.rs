//! From files to what is applied: experiments that the cluster's rules admit, and the documents beside them. Reads files,
//! asks no cluster.

use std::path::PathBuf;

use lem_crds::EfficiencyExperiment;
use serde_json::Value;

use crate::{
    command::validate,
    local::manifest::{self, ManifestError, Meaning, Place},
};

/// Why files cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentsError {
    /// A file is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An experiment that its operator would refuse.
    #[error("{place}: {name}: {reason:#}")]
    Refused {
        /// The document.
        place: Place,
        /// Name of the experiment.
        name: String,
        /// Field, reason and remedy.
        reason: anyhow::Error,
    },
    /// A document that says not what it is.
    #[error("{place} has no {field}: every document of a cluster has apiVersion, kind and metadata.name")]
    Nameless {
        /// The document.
        place: Place,
        /// What is missing.
        field: &'static str,
    },
    /// The files hold other objects only.
    #[error("{} no experiment: `kubectl apply` is for files without one", holds(paths))]
    NoExperiment {
        /// The files.
        paths: Vec<PathBuf>,
    },
}

fn holds(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!(
        "{} {}",
        names.join(", "),
        if names.len() == 1 { "holds" } else { "hold" }
    )
}

/// One document as the user wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) body: Value,
}

/// Everything that is to be applied.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Other objects, which experiments may need; in the order of the files.
    pub(super) beside: Vec<Document>,
    /// Experiments, in the order of the files.
    pub(super) experiments: Vec<Document>,
}

/// Reads files, sets fields of their experiments, and checks these as `lem validate --cluster` does.
///
/// # Errors
/// The first mistake.
pub(super) fn read(paths: &[PathBuf], settings: &[String]) -> Result<Documents, DocumentsError> {
    let settings = manifest::settings(settings)?;
    let mut documents = Documents::default();
    let mut names = Vec::new();
    for path in paths {
        for (place, mut body) in manifest::documents(path)? {
            match Meaning::of(&body) {
                Meaning::Experiment => {
                    let experiment = manifest::admit(&place, &mut body, &settings)?;
                    check(&place, &experiment)?;
                    names.push((place.clone(), manifest::full_name(&experiment)));
                    documents.experiments.push(document(&place, body)?);
                }
                Meaning::Schedule => {
                    let remedy = "is no experiment: give it to `kubectl apply`";
                    return Err(manifest::foreign(&place, &body, remedy).into());
                }
                Meaning::Other => documents.beside.push(document(&place, body)?),
            }
        }
    }
    if documents.experiments.is_empty() {
        return Err(DocumentsError::NoExperiment { paths: paths.to_vec() });
    }
    manifest::unique(names.iter().map(|(place, name)| (place, name.clone())))?;
    Ok(documents)
}

fn check(place: &Place, experiment: &EfficiencyExperiment) -> Result<(), DocumentsError> {
    validate::plan(experiment, true)
        .map(drop)
        .map_err(|reason| DocumentsError::Refused {
            place: place.clone(),
            name: experiment.metadata.name.clone().unwrap_or_default(),
            reason,
        })
}

fn document(place: &Place, body: Value) -> Result<Document, DocumentsError> {
    let text = |field: &'static str, value: &Value| {
        value.as_str().map(ToOwned::to_owned).ok_or(DocumentsError::Nameless {
            place: place.clone(),
            field,
        })
    };
    Ok(Document {
        api_version: text("apiVersion", &body["apiVersion"])?,
        kind: text("kind", &body["kind"])?,
        name: text("metadata.name", &body["metadata"]["name"])?,
        namespace: body["metadata"]["namespace"].as_str().map(ToOwned::to_owned),
        body,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EXPERIMENT: &str = "
apiVersion: lem.dev/v1alpha1
kind: EfficiencyExperiment
metadata: {name: quick}
spec: {model: {name: m, source: {synthetic: {preset: tiny-test}}}}
";

    fn read_text(text: &str, settings: &[&str]) -> Result<Documents, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.yaml");
        fs::write(&path, text).unwrap();
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        read(&[path], &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn documents_beside_an_experiment_are_kept_apart_and_settings_are_not_theirs() {
        let text = format!(
            "{EXPERIMENT}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: questions, namespace: lab}}\n---\n"
        );
        let read = read_text(&text, &["workload.requests=4"]).unwrap();
        assert_eq!(read.experiments[0].body["spec"]["workload"]["requests"], 4);
        assert_eq!(
            read.beside[0].body,
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "questions", "namespace": "lab"}})
        );
        assert_eq!(read.beside[0].namespace.as_deref(), Some("lab"));
    }

    #[test]
    fn only_what_the_user_wrote_is_applied_and_no_default() {
        let read = read_text(EXPERIMENT, &[]).unwrap();
        assert_eq!(read.experiments[0].body["spec"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn a_list_is_read_as_its_members() {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List",
            "items": [serde_yaml::from_str::<Value>(EXPERIMENT).unwrap()]});
        assert_eq!(read_text(&list.to_string(), &[]).unwrap().experiments[0].name, "quick");
    }

    #[test]
    fn what_a_cluster_cannot_honour_is_refused_before_anything_is_applied() {
        let text = EXPERIMENT.replace("synthetic: {preset: tiny-test}", "directory: {path: models}");
        let error = read_text(&text, &[]).unwrap_err();
        assert!(
            error.contains("file.yaml: quick: spec.model.source.directory.path"),
            "{error}"
        );
    }

    #[test]
    fn a_file_without_an_experiment_and_a_document_without_a_name_are_refused() {
        let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        assert!(read_text(config, &[]).unwrap_err().contains("holds no experiment"));
        let nameless = format!("{EXPERIMENT}---\napiVersion: v1\nkind: ConfigMap\n");
        assert!(
            read_text(&nameless, &[])
                .unwrap_err()
                .contains("document 2 has no metadata.name")
        );
    }

    #[test]
    fn a_mistake_is_told_with_the_number_of_its_document() {
        let bad = EXPERIMENT.replace("name: quick", "name: bad");
        let relative = bad.replace("synthetic: {preset: tiny-test}", "directory: {path: models}");
        for (second, words) in [
            (
                relative.as_str(),
                "file.yaml, document 2: bad: spec.model.source.directory.path",
            ),
            (EXPERIMENT, "file.yaml, document 2: quick is in "),
            (
                "apiVersion: lem.dev/v1alpha1\nkind: EfficiencySchedule\nmetadata: {name: weekly}\n",
                "file.yaml, document 2: EfficiencySchedule weekly is no experiment: give it to `kubectl apply`",
            ),
        ] {
            let error = read_text(&format!("{EXPERIMENT}---\n{second}"), &[]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_object_whose_kind_only_sounds_like_a_list_is_not_lost() {
        let object = "apiVersion: example.org/v1\nkind: AllowList\nmetadata: {name: a}\nspec: {}\n";
        let read = read_text(&format!("{EXPERIMENT}---\n{object}"), &[]).unwrap();
        assert_eq!(read.beside[0].kind, "AllowList");
    }

    #[test]
    fn an_experiment_of_a_version_that_is_unknown_is_no_document_beside() {
        let text = EXPERIMENT.replace("v1alpha1", "v9");
        assert!(read_text(&text, &[]).unwrap_err().contains("must be lem.dev/v1alpha1"));
    }
}
