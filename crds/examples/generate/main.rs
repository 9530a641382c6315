//! Writes everything that follows from the contract: the custom resource definitions beside this crate, and the reference
//! pages under docs/. `cargo run -p lem-crds --example generate`, or `make generate`.

mod api;
mod metrics;

use std::{error::Error, fs, path::PathBuf};

/// Each generated file with its content, by its path from the root of the repository.
fn files() -> Result<Vec<(PathBuf, String)>, Box<dyn Error>> {
    let definitions = lem_crds::custom_resource_definitions()?;
    let mut files = vec![
        (PathBuf::from("docs/metrics.md"), metrics::page()?),
        (PathBuf::from("docs/api.md"), api::page(&definitions)?),
    ];
    let yaml = definitions.into_iter();
    files.extend(yaml.map(|(name, yaml)| (PathBuf::from(format!("crds/{name}.yaml")), yaml)));
    Ok(files)
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn main() -> Result<(), Box<dyn Error>> {
    for (path, content) in files()? {
        fs::write(root().join(path), content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_pages_are_those_of_this_code() {
        for (path, content) in files().unwrap() {
            let committed = fs::read_to_string(root().join(&path)).unwrap_or_default();
            assert!(
                committed == content,
                "{} is out of date: run `make generate`",
                path.display()
            );
        }
    }

    #[test]
    fn every_metric_and_every_reason_has_its_row() {
        let page = metrics::page().unwrap();
        for definition in lem_crds::metrics::DEFINITIONS {
            assert!(page.contains(&format!("| `{}` | `{}` |", definition.name, definition.key)));
        }
        assert!(page.contains("| `CounterReset` | The counter went backwards (driver reload, GPU reset)"));
    }

    #[test]
    fn a_field_shows_its_type_default_bounds_and_meaning() {
        let page = api::page(&lem_crds::custom_resource_definitions().unwrap()).unwrap();
        let row = "| `seed` | integer | `0` | 0 to 4294967295 | Seed of sampling and of Poisson arrivals. |";
        assert!(page.contains(row), "{page}");
        let choice = "Exactly one of `directory`, `huggingFace`, `synthetic`, `persistentVolumeClaim`, `image`.";
        assert!(page.contains(choice), "{page}");
        let rule = "- sampling needs a temperature above 0";
        assert!(page.contains(rule), "{page}");
    }
}
