//! A mapped GGUF file with its checked header.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use lem_engine::architecture::{Architecture, expected_tensors, gguf_name};
use lem_engine::header::{GgufHeader, validate_gguf};
use lem_engine::source::{FileSource, WeightFile};
use lem_runner::engine::native::MappedFile;

/// A mapped GGUF file.
#[derive(Debug)]
pub(crate) struct Weights {
    bytes: MappedFile,
    header: GgufHeader,
    /// The model's shape.
    pub(crate) architecture: Architecture,
}

impl Weights {
    /// Maps a file and checks its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let bytes = MappedFile::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let header = validate_gguf(&mut Cursor::new(&bytes), bytes.len() as u64)
            .with_context(|| format!("{} has a bad header", path.display()))?;
        let architecture = Architecture::from_gguf(&header)
            .with_context(|| format!("{} has an unusable architecture", path.display()))?;
        Ok(Self {
            bytes,
            header,
            architecture,
        })
    }

    /// The tensors, for lem-engine. What has been packed leaves the process's memory, as it does in lem's runner.
    pub(crate) fn source(&self) -> Result<FileSource<'_>> {
        let file = WeightFile {
            tensors: &self.header.tensors,
            bytes: &self.bytes,
        };
        let source = FileSource::gguf(&self.architecture, file).context("a tensor cannot be computed with")?;
        Ok(source.on_release(|_, range| self.bytes.give_back(range)))
    }

    /// Bytes of all tensors in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.header.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Bytes of weights that a decode step reads: all matrices of the layers, the norms and the head, and one row of the
    /// embedding for each sequence, which is not counted. A tied embedding is the head, so it is counted once.
    pub(crate) fn bytes_per_step(&self) -> u64 {
        let embedding = gguf_name(&self.architecture, "model.embed_tokens.weight");
        self.header
            .tensors
            .iter()
            .filter(|tensor| self.architecture.tied_embeddings || tensor.name != embedding)
            .map(|tensor| tensor.bytes)
            .sum()
    }

    /// Multiply-adds of one token through all matrices.
    pub(crate) fn matrix_elements(&self) -> u64 {
        let matrices = expected_tensors(&self.architecture)
            .into_iter()
            .filter(|tensor| tensor.shape.len() == 2);
        matrices
            .map(|tensor| tensor.shape.iter().map(|extent| *extent as u64).product::<u64>())
            .sum()
    }
}
