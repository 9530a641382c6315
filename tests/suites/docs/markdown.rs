//! As much of Markdown as links need. Pure.

use std::collections::{BTreeSet, HashMap};

use regex::Regex;

/// Lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !fence && !in_code
    })
}

/// Targets of the links, in order.
pub(crate) fn links(text: &str) -> Vec<String> {
    let code = Regex::new("`[^`]*`").unwrap();
    let link = Regex::new(r"\]\(<?([^)\s>]+)>?[^)]*\)").unwrap();
    let mut found = Vec::new();
    for line in prose(text) {
        // What is code is no link, but a link may have code as its words.
        let words = code.replace_all(line, "code");
        found.extend(link.captures_iter(&words).map(|link| link[1].to_owned()));
    }
    found
}

/// The anchors of the headings.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchors = headings.map(|heading| {
        let anchor = anchor(heading.trim_start_matches('#').trim());
        let count = seen.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 {
            anchor
        } else {
            format!("{anchor}-{}", *count - 1)
        }
    });
    anchors.collect()
}

/// As the usual renderers make them: lower case, blanks to hyphens, no other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|character| match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ if character.is_alphanumeric() => Some(character),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

#[test]
fn links_in_code_are_none_and_headings_become_anchors() {
    let text = "# A `b.c` — d\n[x](y.md#z) `[no](no.md)` [`code`](t.md)\n```sh\n# no\n[no](no.md)\n```\n## A\n## A\n";
    assert_eq!(links(text), ["y.md#z", "t.md"]);
    let expected = ["a", "a-1", "a-bc--d"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
}
