//! Writes the generated files of the charts; `make generate` runs it.

use std::{fs, path::Path};

use anyhow::Context;
use lem_tests::chart;

fn main() -> anyhow::Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("this package is not in the repository")?;
    for (path, content) in chart::generated(repository)? {
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
