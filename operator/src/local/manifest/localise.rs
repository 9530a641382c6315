//! From an admitted experiment to one that this machine can honour. Reads files.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use lem_crds::{
    EfficiencyExperiment, EfficiencyExperimentSpec,
    experiment::{JsonLines, ModelSource, Prompts, SweepField, SweepValue, swept_values},
    prompts,
    validate::Violation,
};

use super::{ManifestError, Place};

/// Makes an experiment self-contained for this machine: paths absolute, prompts read, and nothing left that only a
/// cluster can honour.
///
/// # Errors
/// Each field that cannot be honoured, by name.
pub fn localise(mut experiment: EfficiencyExperiment, place: &Place) -> Result<EfficiencyExperiment, ManifestError> {
    let folder = place
        .path()
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
        if axis.field == SweepField::DirectoryPath {
            for value in &mut axis.values {
                *value = SweepValue::Text(absolute(&folder, &value.to_string()));
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
            place: place.clone(),
            violations,
        })
    }
}

/// Whether only a cluster can honour the experiment: its plan can be shown all the same.
pub fn is_for_a_cluster(spec: &EfficiencyExperimentSpec) -> bool {
    let source = matches!(
        spec.model.source,
        ModelSource::PersistentVolumeClaim(_) | ModelSource::Image(_)
    );
    let prompts = matches!(spec.workload.prompts, Prompts::ConfigMapRef(_));
    spec.placement.is_some() || spec.runner.is_some() || source || prompts
}

/// Checks that the models of a localised experiment are there, before a process is started for each.
///
/// # Errors
/// Each field whose file or folder is not there or cannot be read.
pub fn check_models(experiment: &EfficiencyExperiment, place: &Place) -> Result<(), ManifestError> {
    let given = directories(&experiment.spec).into_iter();
    let refused = given.filter_map(|(field, path)| Some(Violation::new(&field, unusable(Path::new(&path))?)));
    let violations: Vec<Violation> = refused.collect();
    if violations.is_empty() {
        return Ok(());
    }
    Err(ManifestError::Invalid {
        place: place.clone(),
        violations,
    })
}

/// The field and the path of the model, or of those models of a sweep that take its place.
fn directories(spec: &EfficiencyExperimentSpec) -> Vec<(String, String)> {
    let ModelSource::Directory(directory) = &spec.model.source else {
        return Vec::new();
    };
    let swept: Vec<(String, String)> = swept_values(&spec.sweep, SweepField::DirectoryPath)
        .into_iter()
        .map(|(field, path)| (format!("spec.{field}"), path.to_string()))
        .collect();
    if swept.is_empty() {
        vec![("spec.model.source.directory.path".to_owned(), directory.path.clone())]
    } else {
        swept
    }
}

/// Why no model can be read there; none if one may be.
fn unusable(path: &Path) -> Option<String> {
    let error = open(path).err()?;
    Some(if error.kind() == ErrorKind::NotFound {
        format!(
            "there is nothing at {}: give a .gguf file, a folder with one of them, or a folder with config.json and \
             safetensors; a relative path begins at the folder of the experiment's file",
            path.display()
        )
    } else {
        format!("cannot read {}: {error}", path.display())
    })
}

fn open(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        path.read_dir().map(drop)
    } else {
        fs::File::open(path).map(drop)
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
