//! Every word that a user can meet has its row in docs/troubleshooting.md.

use std::{collections::BTreeSet, fs};

use regex::Regex;
use serde_yaml::Value;

use crate::{files, repository, text};

/// Texts that a pattern finds in the sources of a folder.
fn found(folder: &str, pattern: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let sources = files(&repository().join(folder), "rs");
    let of_source = |path: &std::path::PathBuf| {
        let source = fs::read_to_string(path).unwrap();
        // Tests may say what nobody else does.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        pattern
            .captures_iter(&source)
            .map(|found| found[1].to_owned())
            .collect::<Vec<_>>()
    };
    sources
        .iter()
        .filter(|path| !path.to_string_lossy().contains("tests"))
        .flat_map(of_source)
        .collect()
}

fn assert_documented(words: &BTreeSet<String>, least: usize) {
    let page = text("docs/troubleshooting.md");
    let missing: Vec<_> = words
        .iter()
        .filter(|word| !page.contains(&format!("`{word}`")))
        .collect();
    assert!(missing.is_empty(), "not in docs/troubleshooting.md: {missing:?}");
    assert!(words.len() >= least, "only {words:?}");
}

#[test]
fn every_reason_of_a_stall_is_explained() {
    assert_documented(&found("operator/src/controller", r#"Cause::new\(\s*"([A-Za-z]+)""#), 12);
}

#[test]
fn every_doubt_is_explained() {
    let definition: Value = serde_yaml::from_str(&text("crds/efficiencyexperiments.lem.dev.yaml")).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    let reasons = &schema["properties"]["points"]["items"]["properties"]["reasons"];
    let doubts = reasons["items"]["properties"]["doubt"]["enum"].as_sequence().unwrap();
    let doubts = doubts.iter().map(|doubt| doubt.as_str().unwrap().to_owned()).collect();
    assert_documented(&doubts, 23);
}

#[test]
fn every_category_of_an_error_is_explained() {
    // The bodies of the functions that give an error its category, at the margin and in a type.
    let mut bodies = found("runner/src", r"(?s)\n    pub fn category\(.*?\{(.*?)\n    \}\n");
    bodies.extend(found("runner/src", r"(?s)\npub\(super\) fn category\(.*?\{(.*?)\n\}\n"));
    bodies.extend(found(
        "operator/src/controller",
        r"(?s)\npub fn category\(.*?\{(.*?)\n\}\n",
    ));
    assert!(bodies.len() >= 5, "{bodies:?}");
    let word = Regex::new(r#""([a-z_]+)""#).unwrap();
    let of_functions = bodies
        .iter()
        .flat_map(|body| word.captures_iter(body).map(|found| found[1].to_owned()));
    assert_documented(&of_functions.collect(), 30);
    assert_documented(&found("operator/src", r#"category: "([a-z_]+)"\.to_owned"#), 2);
}
