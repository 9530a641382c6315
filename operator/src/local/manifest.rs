//! From a file to an admitted experiment, and on to one whose every field can be honoured on this machine.

mod documents;
mod localise;
mod setting;
mod strict;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kube::ResourceExt;
use lem_crds::{
    EfficiencyExperiment, EfficiencySchedule, GROUP,
    validate::{self, Violation},
};
use serde_json::Value;

pub use self::{
    documents::{Place, documents},
    localise::{check_models, is_for_a_cluster, localise},
    setting::{Setting, settings},
};

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
    /// Not YAML, or a mapping has a field twice.
    #[error("{place} is not valid YAML")]
    Yaml {
        /// The document.
        place: Place,
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
    /// `--set` is not `field=value`.
    #[error("--set {argument}: {message}")]
    Set {
        /// As given.
        argument: String,
        /// What is wrong with it.
        message: String,
    },
    /// A document of a kind that is not read here.
    #[error("{place}: {kind} {remedy}")]
    Foreign {
        /// The document.
        place: Place,
        /// What it says it is.
        kind: String,
        /// Why it is refused, and what to do.
        remedy: &'static str,
    },
    /// Two documents of one name: the second would go on with the results of the first, or take its place.
    #[error("{place}: {name} is in {first} already: give each a name of its own")]
    Repeated {
        /// The second.
        place: Place,
        /// The first.
        first: Place,
        /// The name, with its namespace if it has one.
        name: String,
    },
    /// The experiment breaks rules; each violation names its field.
    #[error("{place}: {}", list(violations))]
    Invalid {
        /// The document.
        place: Place,
        /// All of them.
        violations: Vec<Violation>,
    },
}

impl ManifestError {
    /// The same, with the setting that each violation comes from: the file does not show it.
    #[must_use]
    pub fn attributed(mut self, settings: &[Setting]) -> Self {
        if let Self::Invalid { violations, .. } = &mut self {
            setting::attribute(violations, settings);
        }
        self
    }
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
/// One for every document that is not an admissible experiment.
pub fn read(path: &Path, settings: &[Setting]) -> Result<Vec<(Place, EfficiencyExperiment)>, Vec<ManifestError>> {
    each(path, |place, document| match Meaning::of(document) {
        Meaning::Experiment => admit_here(place, document, settings),
        Meaning::Schedule => {
            let remedy = "runs on a cluster: give it to `kubectl apply`";
            Err(foreign(place, document, remedy))
        }
        Meaning::Other => {
            let remedy = "is no experiment: put it into a file of its own";
            Err(foreign(place, document, remedy))
        }
    })
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
/// One for every document that is neither, or that has the kind and the name of another.
pub fn read_all(path: &Path, settings: &[Setting]) -> Result<Vec<(Place, Document)>, Vec<ManifestError>> {
    let read = each(path, |place, document| match Meaning::of(document) {
        Meaning::Experiment => {
            let experiment = admit_here(place, document, settings)?;
            Ok(Document::Experiment(Box::new(experiment)))
        }
        Meaning::Schedule => {
            let schedule = admit_schedule(place, document, settings)?;
            Ok(Document::Schedule(Box::new(schedule)))
        }
        Meaning::Other => {
            let remedy = "is neither experiment nor schedule: put it into a file of its own";
            Err(foreign(place, document, remedy))
        }
    })?;
    let names = read.iter().map(|(place, document)| match document {
        Document::Experiment(experiment) => (place, full_name(&**experiment)),
        Document::Schedule(schedule) => (place, format!("schedule {}", full_name(&**schedule))),
    });
    unique(names).map_err(|error| vec![error])?;
    Ok(read)
}

/// Everything that one function makes of the documents of a file, or everything that it says against them.
fn each<T>(
    path: &Path,
    mut one: impl FnMut(&Place, &mut Value) -> Result<T, ManifestError>,
) -> Result<Vec<(Place, T)>, Vec<ManifestError>> {
    let documents = documents(path).map_err(|error| vec![error])?;
    if documents.is_empty() {
        return Err(vec![ManifestError::Empty { path: path.to_owned() }]);
    }
    let (mut read, mut errors) = (Vec::new(), Vec::new());
    for (place, mut document) in documents {
        match one(&place, &mut document) {
            Ok(found) => read.push((place, found)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(read) } else { Err(errors) }
}

/// What a document says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// An experiment of any version: the rules say which one is meant. One that says nothing is meant as one too.
    Experiment,
    /// A schedule.
    Schedule,
    /// Anything else.
    Other,
}

impl Meaning {
    /// By apiVersion and kind.
    pub fn of(document: &Value) -> Self {
        let (version, kind) = (&document["apiVersion"], &document["kind"]);
        let ours = || {
            let version = version.as_str().unwrap_or_default();
            version.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'))
        };
        if kind == "EfficiencySchedule" {
            Self::Schedule
        } else if version.is_null() || kind.is_null() || kind == "EfficiencyExperiment" || ours() {
            Self::Experiment
        } else {
            Self::Other
        }
    }
}

/// The error about a document that is not read here.
pub fn foreign(place: &Place, document: &Value, remedy: &'static str) -> ManifestError {
    let kind = document["kind"].as_str().unwrap_or("a document without a kind");
    ManifestError::Foreign {
        place: place.clone(),
        kind: match document["metadata"]["name"].as_str() {
            Some(name) => format!("{kind} {name}"),
            None => kind.to_owned(),
        },
        remedy,
    }
}

/// The name of an object, with its namespace if it says one.
pub fn full_name(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Refuses the second of two documents of one name.
///
/// # Errors
/// Where both stand.
pub fn unique<'a>(named: impl IntoIterator<Item = (&'a Place, String)>) -> Result<(), ManifestError> {
    let mut seen: BTreeMap<String, &Place> = BTreeMap::new();
    for (place, name) in named {
        if let Some(first) = seen.get(&name) {
            return Err(ManifestError::Repeated {
                place: place.clone(),
                first: (*first).clone(),
                name,
            });
        }
        seen.insert(name, place);
    }
    Ok(())
}

/// Sets fields of a document, and admits it as an experiment by the cluster's own rules.
///
/// # Errors
/// A setting that cannot be made, or every rule that is broken.
pub fn admit(place: &Place, document: &mut Value, settings: &[Setting]) -> Result<EfficiencyExperiment, ManifestError> {
    admit_by(place, document, settings, validate::experiment)
}

/// As [`admit`], and refuses shapes of synthetic models that the runner of this version does not know. That of a cluster
/// may be of another version.
fn admit_here(
    place: &Place,
    document: &mut Value,
    settings: &[Setting],
) -> Result<EfficiencyExperiment, ManifestError> {
    admit_by(place, document, settings, |document| {
        let experiment = validate::experiment(document)?;
        none(validate::presets(&experiment.spec, "spec")).map(|()| experiment)
    })
}

fn admit_schedule(
    place: &Place,
    document: &mut Value,
    settings: &[Setting],
) -> Result<EfficiencySchedule, ManifestError> {
    admit_by(place, document, settings, |document| {
        let schedule = validate::schedule(document)?;
        let spec = &schedule.spec.experiment_template.spec;
        none(validate::presets(spec, "spec.experimentTemplate.spec")).map(|()| schedule)
    })
}

fn none(violations: Vec<Violation>) -> Result<(), Vec<Violation>> {
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

fn admit_by<T>(
    place: &Place,
    document: &mut Value,
    settings: &[Setting],
    rules: impl FnOnce(&Value) -> Result<T, Vec<Violation>>,
) -> Result<T, ManifestError> {
    for setting in settings {
        setting.apply(document)?;
    }
    rules(document).map_err(|violations| {
        let place = place.clone();
        ManifestError::Invalid { place, violations }.attributed(settings)
    })
}
