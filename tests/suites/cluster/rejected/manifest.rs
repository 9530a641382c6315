//! The corpus: experiments that nobody may run, each with what its author must be told.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::world::repository;

/// Who sees the mistake first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    ApiServer,
    Operator,
    Kubectl,
}

/// One file.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) path: PathBuf,
    pub(crate) json: Value,
    pub(crate) must_say: Vec<String>,
    pub(crate) by: By,
}

impl Manifest {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let said = |key: &'static str| text.lines().filter_map(move |line| line.strip_prefix(key));
        let by = match said("# refused by: ").next() {
            None => By::ApiServer,
            Some("operator") => By::Operator,
            Some("kubectl") => By::Kubectl,
            Some(other) => panic!("{}: refused by {other}?", path.display()),
        };
        // The first document: an example may hold more objects.
        let first = serde_yaml::Deserializer::from_str(&text).next().unwrap();
        Self {
            json: serde::Deserialize::deserialize(first).unwrap(),
            must_say: said("# must say: ").map(ToOwned::to_owned).collect(),
            by,
            path,
        }
    }

    /// Name of the file, which says what is wrong.
    pub(crate) fn stem(&self) -> String {
        self.path.file_stem().unwrap().to_str().unwrap().to_owned()
    }

    /// Name of the experiment.
    pub(crate) fn name(&self) -> &str {
        self.json["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// Every rejected manifest.
pub(crate) fn corpus() -> Vec<Manifest> {
    let corpus = folder(&repository().join("tests/fixtures/rejected"));
    for manifest in &corpus {
        assert!(
            !manifest.must_say.is_empty(),
            "{} must say something",
            manifest.path.display()
        );
    }
    corpus
}

/// Every manifest of a folder, by name.
pub(crate) fn folder(folder: &Path) -> Vec<Manifest> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    paths.into_iter().map(Manifest::read).collect()
}
