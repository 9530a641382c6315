//! Random weights that are made when they are asked for, so that a large model is in memory once.

use std::collections::BTreeMap;

use lem_engine::tensor::{ElementType, StoredTensor, TensorSource};

use crate::engine::architecture::{Architecture, ExpectedTensor, expected_tensors};
use crate::engine::candle::generate;
use crate::engine::header::TensorRecord;

/// The tensors of a shape.
pub(super) struct SyntheticSource<'architecture> {
    architecture: &'architecture Architecture,
    seed: u64,
    /// Type of the matrices.
    element_type: ElementType,
    /// By name.
    pub(super) tensors: BTreeMap<String, ExpectedTensor>,
}

impl<'architecture> SyntheticSource<'architecture> {
    pub(super) fn new(architecture: &'architecture Architecture, seed: u64, element_type: ElementType) -> Self {
        let tensors = expected_tensors(architecture).into_iter();
        Self {
            architecture,
            seed,
            element_type,
            tensors: tensors.map(|tensor| (tensor.name.clone(), tensor)).collect(),
        }
    }

    /// A matrix whose rows are not whole blocks of the type.
    pub(super) fn odd_rows(&self) -> Option<&ExpectedTensor> {
        let block = self.element_type.block_elements();
        let mut matrices = self.tensors.values().filter(|tensor| tensor.shape.len() == 2);
        matrices.find(|tensor| !tensor.shape[1].is_multiple_of(block))
    }

    /// Vectors stay floats, as in files.
    fn stored_type(&self, expected: &ExpectedTensor) -> ElementType {
        if expected.shape.len() == 2 {
            self.element_type
        } else {
            ElementType::F32
        }
    }

    /// Describes a tensor as the header of a file would.
    pub(super) fn record(&self, expected: &ExpectedTensor) -> TensorRecord {
        let stored = self.stored_type(expected);
        TensorRecord {
            name: expected.name.clone(),
            shape: expected.shape.clone(),
            element_type: stored.name().to_owned(),
            bytes: stored.bytes(expected.shape.iter().product()) as u64,
            offset: 0,
        }
    }
}

impl TensorSource for SyntheticSource<'_> {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let expected = self.tensors.get(name)?;
        let element_type = self.stored_type(expected);
        let bytes = generate(self.architecture, expected, self.seed, element_type)
            .inspect_err(|error| tracing::error!(name, %error, "a tensor cannot be made"))
            .ok()?;
        let (columns, outer) = expected.shape.split_last()?;
        Some(StoredTensor {
            element_type,
            rows: outer.iter().product(),
            columns: *columns,
            bytes: bytes.into(),
        })
    }
}
