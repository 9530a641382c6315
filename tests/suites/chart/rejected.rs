//! Values that the schema refuses, and the words with which it does.
//!
//! Each file of `tests/fixtures/rejected-values` begins with the words, as a comment.

use std::{fs, path::Path};

use crate::helm::{chart, template};

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn wrong_values_are_refused_by_the_path_and_the_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rejected-values");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let words = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let words = words.unwrap_or_else(|| panic!("{}: the first line has no words", path.display()));
        let output = template(&chart("lem"), &["--values", path.to_str().unwrap()]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{} is taken", path.display());
        assert!(errors.contains(words), "{}: {errors}", path.display());
        files += 1;
    }
    assert!(files >= 20, "{files} files");
}
