//! The weight files that are measured.
//!
//! `smollm2-135m.*` are the real model in other types: its tensors are dequantised and quantised again, so they are not
//! as good as files made from the original weights, and all engines compute the same with them. `tinyllama-1.1b.*` have
//! the shape of that model and random weights: what a step costs does not depend on their values.
//!
//! `q4_k` needs rows of whole blocks of 256. The rows of `SmolLM2` have 576 elements except those of `ffn_down`, so only
//! that is `Q4_K` there and everything else is `Q8_0`. (llama.cpp's own quantiser falls back to `Q5_0`, for which
//! lem-engine has no kernels.)

mod gguf;
mod real;
mod synthetic;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::quantized::GgmlDType;

/// Where from and where to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// The real model, SmolLM2-135M in `Q4_1`
    #[arg(long, default_value = "models/SmolLM2-135M-Instruct.Q4_1.gguf")]
    model: PathBuf,
    /// Folder to write to
    #[arg(long, default_value = "models/bench")]
    output: PathBuf,
    /// Write only files whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// Types of which there is a file of each model. The real model's own type is among them: it is linked.
const REAL_TYPES: [(&str, GgmlDType); 5] = [
    ("f32", GgmlDType::F32),
    ("bf16", GgmlDType::BF16),
    ("q4_0", GgmlDType::Q4_0),
    ("q8_0", GgmlDType::Q8_0),
    ("q4_k", GgmlDType::Q4K),
];
const SYNTHETIC_TYPES: [(&str, GgmlDType); 5] = [
    ("bf16", GgmlDType::BF16),
    ("q4_0", GgmlDType::Q4_0),
    ("q4_1", GgmlDType::Q4_1),
    ("q4_k", GgmlDType::Q4K),
    ("q8_0", GgmlDType::Q8_0),
];

/// Writes what is missing.
pub(crate) fn files(arguments: &Arguments) -> Result<()> {
    let folder = &arguments.output;
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|part| name.contains(part));
    let linked = folder.join("smollm2-135m.q4_1.gguf");
    if wanted("smollm2-135m.q4_1.gguf") && !linked.exists() {
        let target = fs::canonicalize(&arguments.model)
            .with_context(|| format!("{} is missing: `make model` fetches it", arguments.model.display()))?;
        std::os::unix::fs::symlink(&target, &linked)
            .with_context(|| format!("{} cannot be linked", linked.display()))?;
    }
    for (label, element_type) in REAL_TYPES {
        let name = format!("smollm2-135m.{label}.gguf");
        if wanted(&name) {
            unless_there(&folder.join(name), |path| {
                real::convert(&arguments.model, path, element_type)
            })?;
        }
    }
    for (label, element_type) in SYNTHETIC_TYPES {
        let name = format!("tinyllama-1.1b.{label}.gguf");
        if wanted(&name) {
            unless_there(&folder.join(name), |path| synthetic::write(path, element_type))?;
        }
    }
    Ok(())
}

/// Writes a file beside its place first, so that none is there half.
fn unless_there(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    eprintln!("writing {}", path.display());
    let part = path.with_extension("part");
    write(&part).with_context(|| format!("{} cannot be written", path.display()))?;
    fs::rename(&part, path).with_context(|| format!("{} cannot be renamed", part.display()))
}

/// The type that a tensor gets: vectors stay floats, and rows that are not whole blocks get smaller blocks.
fn stored_type(shape: &[usize], wanted: GgmlDType) -> GgmlDType {
    match shape {
        [_, columns] if columns.is_multiple_of(wanted.block_size()) => wanted,
        [_, _] => GgmlDType::Q8_0,
        _ => GgmlDType::F32,
    }
}
