//! The documents, dashboards and alerts fit each other and the code: links lead somewhere, every name in a query is
//! documented, every alert has its runbook and its cases, every message its row.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod alerts;
mod dashboards;
mod links;
mod markdown;
mod messages;
mod queries;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the documents are published.
const PUBLISHED: &str = "https://lem.dev/docs/";

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files under a folder with this extension, at any depth, in order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // What is built or fetched, and what belongs to others.
            if !name.starts_with('.')
                && !name.starts_with("target")
                && !["models", "results", "corpus"].contains(&&*name)
            {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
