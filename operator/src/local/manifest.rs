//! From a file to an admitted experiment, and on to one whose every field can be honoured on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lem_crds::{
    EfficiencyExperiment, EfficiencySchedule,
    experiment::{JsonLines, ModelSource, Prompts},
    prompts,
    validate::{self, Violation},
};
use serde::Deserialize;
use serde_json::Value;

/// Why a manifest cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML.
    #[error("{} is not valid YAML", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_yaml::Error,
    },
    /// The file holds no document.
    #[error("{} holds no experiment", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// `--set` is not `path=value`.
    #[error("--set {argument}: {message}")]
    Set {
        /// As given.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// The experiment breaks rules; each violation names its field.
    #[error("{}: {}", path.display(), list(violations))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        violations: Vec<Violation>,
    },
}

fn list(violations: &[Violation]) -> String {
    match violations {
        [one] => one.to_string(),
        many => many.iter().fold(format!("{} errors", many.len()), |text, violation| {
            format!("{text}\n  {violation}")
        }),
    }
}

/// Reads every experiment of a file, sets fields, and admits each by the cluster's own rules.
///
/// # Errors
/// The first document that is not an admissible experiment.
pub fn read(path: &Path, settings: &[String]) -> Result<Vec<EfficiencyExperiment>, ManifestError> {
    let mut experiments = Vec::new();
    for mut document in documents(path)? {
        experiments.push(admit(path, &mut document, settings)?);
    }
    if experiments.is_empty() {
        return Err(ManifestError::Empty { path: path.to_owned() });
    }
    Ok(experiments)
}

/// What a document of a file can be.
#[derive(Debug)]
pub enum Document {
    /// An experiment.
    Experiment(Box<EfficiencyExperiment>),
    /// What repeats one on a cluster.
    Schedule(Box<EfficiencySchedule>),
}

/// Reads every experiment and every schedule of a file, sets fields, and admits each by the cluster's own rules.
///
/// # Errors
/// The first document that is neither.
pub fn read_all(path: &Path, settings: &[String]) -> Result<Vec<Document>, ManifestError> {
    let mut read = Vec::new();
    for mut document in documents(path)? {
        let is_schedule = document.get("kind").and_then(Value::as_str) == Some("EfficiencySchedule");
        read.push(if is_schedule {
            let schedule = admit_by(validate::schedule, path, &mut document, settings)?;
            Document::Schedule(Box::new(schedule))
        } else {
            Document::Experiment(Box::new(admit(path, &mut document, settings)?))
        });
    }
    if read.is_empty() {
        return Err(ManifestError::Empty { path: path.to_owned() });
    }
    Ok(read)
}

/// Reads every document of a file that is not empty, whatever it holds.
///
/// # Errors
/// The file cannot be read, or is not YAML.
pub fn documents(path: &Path) -> Result<Vec<Value>, ManifestError> {
    let text = fs::read_to_string(path).map_err(|source| ManifestError::Read {
        path: path.to_owned(),
        source,
    })?;
    let read = serde_yaml::Deserializer::from_str(&text).map(|document| {
        Value::deserialize(document).map_err(|source| ManifestError::Yaml {
            path: path.to_owned(),
            source,
        })
    });
    let read = read.filter(|document| !document.as_ref().is_ok_and(Value::is_null));
    read.collect()
}

/// Sets fields of a document, and admits it as an experiment by the cluster's own rules.
///
/// # Errors
/// A setting that cannot be made, or every rule that is broken.
pub fn admit(path: &Path, document: &mut Value, settings: &[String]) -> Result<EfficiencyExperiment, ManifestError> {
    admit_by(validate::experiment, path, document, settings)
}

fn admit_by<T>(
    rules: fn(&Value) -> Result<T, Vec<Violation>>,
    path: &Path,
    document: &mut Value,
    settings: &[String],
) -> Result<T, ManifestError> {
    for setting in settings {
        set(document, setting)?;
    }
    rules(document).map_err(|violations| ManifestError::Invalid {
        path: path.to_owned(),
        violations,
    })
}

/// Sets one field, given as `workload.requests=4`; the path starts in the spec unless it begins with `metadata.`.
fn set(manifest: &mut Value, argument: &str) -> Result<(), ManifestError> {
    let wrong = |message: &str| ManifestError::Set {
        argument: argument.to_owned(),
        message: message.to_owned(),
    };
    let (path, text) = argument
        .split_once('=')
        .ok_or_else(|| wrong("write path=value, such as workload.requests=4"))?;
    let value: Value = serde_yaml::from_str(text).map_err(|_| wrong("the value is not YAML"))?;
    let path = path.strip_prefix("spec.").unwrap_or(path);
    let segments: Vec<&str> = match path.strip_prefix("metadata.") {
        Some(rest) => std::iter::once("metadata").chain(rest.split('.')).collect(),
        None => std::iter::once("spec").chain(path.split('.')).collect(),
    };
    let mut target = manifest;
    for segment in &segments[..segments.len() - 1] {
        if target.is_null() {
            *target = Value::Object(serde_json::Map::new());
        }
        let object = target
            .as_object_mut()
            .ok_or_else(|| wrong("the path leads into a value that has no fields"))?;
        target = object.entry((*segment).to_owned()).or_insert(Value::Null);
    }
    if target.is_null() {
        *target = Value::Object(serde_json::Map::new());
    }
    let object = target
        .as_object_mut()
        .ok_or_else(|| wrong("the path leads into a value that has no fields"))?;
    object.insert(segments[segments.len() - 1].to_owned(), value);
    Ok(())
}

/// Makes an experiment self-contained for this machine: paths absolute, prompts read, and nothing left that only a
/// cluster can honour.
///
/// # Errors
/// Each field that cannot be honoured, by name.
pub fn localise(mut experiment: EfficiencyExperiment, file: &Path) -> Result<EfficiencyExperiment, ManifestError> {
    let folder = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let mut violations = Vec::new();
    let mut refuse = |path: &str, message: String| {
        violations.push(Violation {
            path: path.to_owned(),
            message,
        });
    };
    let spec = &mut experiment.spec;
    for (field, given, remedy) in [
        (
            "spec.placement",
            spec.placement.is_some(),
            "there is one machine here; remove it",
        ),
        (
            "spec.runner",
            spec.runner.is_some(),
            "no container is started here; remove it",
        ),
        (
            "spec.suspend",
            spec.suspend,
            "press Ctrl-C to stop here, and run again to go on",
        ),
        ("spec.cancel", spec.cancel, "press Ctrl-C to stop here"),
        (
            "spec.ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.is_some(),
            "no Job is created here; remove it",
        ),
    ] {
        if given {
            refuse(field, format!("for a cluster only: {remedy}"));
        }
    }
    match &mut spec.model.source {
        ModelSource::Directory(directory) => {
            directory.path = absolute(&folder, &directory.path);
        }
        ModelSource::HuggingFace(hub) => {
            if hub.token_secret_ref.is_some() {
                refuse(
                    "spec.model.source.huggingFace.tokenSecretRef",
                    "secrets exist on a cluster only; `lem run` takes the token from HF_TOKEN".into(),
                );
            }
        }
        ModelSource::Synthetic(_) => {}
        ModelSource::PersistentVolumeClaim(_) => refuse(
            "spec.model.source.persistentVolumeClaim",
            "volumes exist on a cluster only; use model.source.directory here".into(),
        ),
        ModelSource::Image(_) => refuse(
            "spec.model.source.image",
            "image volumes exist on a cluster only; use model.source.directory here".into(),
        ),
    }
    for axis in &mut spec.sweep {
        if axis.field == lem_crds::experiment::SweepField::DirectoryPath {
            for value in &mut axis.values {
                *value = lem_crds::experiment::SweepValue::Text(absolute(&folder, &value.to_string()));
            }
        }
    }
    match &spec.workload.prompts {
        Prompts::JsonLines(lines) => match read_lines(&folder, lines) {
            Ok(texts) => spec.workload.prompts = Prompts::Inline(texts),
            Err(message) => refuse("spec.workload.prompts.jsonLines", message),
        },
        Prompts::ConfigMapRef(_) => refuse(
            "spec.workload.prompts.configMapRef",
            "ConfigMaps exist on a cluster only; use workload.prompts.jsonLines here".into(),
        ),
        Prompts::Synthetic(_) | Prompts::Inline(_) => {}
    }
    if violations.is_empty() {
        Ok(experiment)
    } else {
        Err(ManifestError::Invalid {
            path: file.to_owned(),
            violations,
        })
    }
}

fn absolute(folder: &Path, path: &str) -> String {
    let joined = folder.join(path);
    fs::canonicalize(&joined)
        .unwrap_or(joined)
        .to_string_lossy()
        .into_owned()
}

fn read_lines(folder: &Path, lines: &JsonLines) -> Result<Vec<String>, String> {
    let path = folder.join(&lines.path);
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    prompts::parse(&text, &lines.field).map_err(|error| format!("{}: {error}", path.display()))
}
