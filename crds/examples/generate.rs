//! Writes the custom resource definitions beside this crate: `cargo run -p lem-crds --example generate`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, yaml) in lem_crds::custom_resource_definitions()? {
        fs::write(folder.join(format!("{name}.yaml")), yaml)?;
    }
    Ok(())
}
