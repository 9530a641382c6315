//! Links between files and to their sections.

use std::{fs, path::Path};

use crate::{PUBLISHED, files, markdown, repository};

/// Why a link leads nowhere; nothing where it leads somewhere, or out of the repository.
pub(crate) fn broken(file: &Path, link: &str) -> Option<String> {
    let published = link.strip_prefix(PUBLISHED);
    if published.is_none() && (link.contains("://") || link.starts_with("mailto:")) {
        return None;
    }
    let (path, anchor) = published
        .unwrap_or(link)
        .split_once('#')
        .unwrap_or((published.unwrap_or(link), ""));
    let folder = match published {
        Some(_) => repository().join("docs"),
        None => file.parent().unwrap().to_owned(),
    };
    let target = if path.is_empty() {
        file.to_owned()
    } else {
        folder.join(path)
    };
    if !target.exists() {
        return Some(format!("{}: {link}: no such file", file.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&target).unwrap_or_default();
    let found = markdown::anchors(&text).contains(anchor);
    (!found).then(|| format!("{}: {link}: no such section", file.display()))
}

#[test]
fn every_link_of_every_document_leads_somewhere() {
    let documents = files(&repository(), "md");
    assert!(documents.iter().any(|path| path.ends_with("docs/runbooks.md")));
    let mut problems = Vec::new();
    let mut count = 0;
    for document in documents {
        for link in markdown::links(&fs::read_to_string(&document).unwrap()) {
            count += 1;
            problems.extend(broken(&document, &link));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(count > 100, "only {count} links were found");
}

#[test]
fn a_link_to_what_is_not_there_is_found() {
    let file = repository().join("docs/install.md");
    for link in [
        "nothing.md",
        "security.md#nothing",
        "https://lem.dev/docs/runbooks.md#nothing",
        "#nothing",
    ] {
        assert!(broken(&file, link).is_some(), "{link}");
    }
    for link in [
        "security.md#network",
        "https://lem.dev/docs/runbooks.md#lemnodeoutlier",
        "#charts",
        "https://example.com/x",
    ] {
        assert_eq!(broken(&file, link), None);
    }
}

#[test]
fn every_page_can_be_reached_from_the_first_one() {
    let first = repository().join("docs/README.md").canonicalize().unwrap();
    let mut reached = vec![first.clone()];
    let mut open = vec![first];
    while let Some(page) = open.pop() {
        for link in markdown::links(&fs::read_to_string(&page).unwrap()) {
            let path = page.parent().unwrap().join(link.split('#').next().unwrap_or_default());
            let Ok(path) = path.canonicalize() else { continue };
            if path.extension().is_some_and(|extension| extension == "md") && !reached.contains(&path) {
                reached.push(path.clone());
                open.push(path);
            }
        }
    }
    for page in files(&repository().join("docs"), "md") {
        assert!(reached.contains(&page.canonicalize().unwrap()), "{}", page.display());
    }
}
