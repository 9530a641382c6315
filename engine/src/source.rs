//! Tensors of mapped weight files, or in memory. Pure: who maps the files is the caller.

use std::collections::HashMap;
use std::ops::Range;

use crate::architecture::{Architecture, Family, expected_tensors, gguf_name};
use crate::decoder::SourceConventions;
use crate::header::TensorRecord;
use crate::tensor::{ElementType, StoredTensor, TensorSource};

/// Why the tensors of a file cannot be computed with.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A tensor has an element type for which there are no kernels.
    #[error("tensor {tensor:?} has the element type {element_type}, for which the engine has no kernel")]
    ElementType {
        /// The tensor.
        tensor: String,
        /// Its type, as the file spells it.
        element_type: String,
    },
    /// The headers were not checked against these bytes.
    #[error("tensor {tensor:?} lies outside of its file")]
    OutOfFile {
        /// The tensor.
        tensor: String,
    },
}

/// Tensors in memory, by their names in safetensors files.
#[derive(Debug, Default)]
pub struct MemorySource {
    tensors: HashMap<String, OwnedTensor>,
}

/// As [`StoredTensor`], with bytes of its own.
#[derive(Debug)]
struct OwnedTensor {
    element_type: ElementType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// Adds a tensor of this shape, outermost extent first.
    pub fn insert(&mut self, name: String, element_type: ElementType, shape: &[usize], bytes: Vec<u8>) {
        let (rows, columns) = matrix_shape(shape);
        let tensor = OwnedTensor {
            element_type,
            rows,
            columns,
            bytes,
        };
        self.tensors.insert(name, tensor);
    }
}

impl TensorSource for MemorySource {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let tensor = self.tensors.get(name)?;
        Some(StoredTensor {
            element_type: tensor.element_type,
            rows: tensor.rows,
            columns: tensor.columns,
            bytes: tensor.bytes.as_slice().into(),
        })
    }
}

/// Rows and columns of a shape; a vector is one row.
fn matrix_shape(shape: &[usize]) -> (usize, usize) {
    match shape {
        [outer @ .., columns] => (outer.iter().product(), *columns),
        [] => (1, 1),
    }
}

/// One file: the tensors that its checked header names, and all of its bytes.
#[derive(Debug, Clone, Copy)]
pub struct WeightFile<'bytes> {
    /// Tensors of the header.
    pub tensors: &'bytes [TensorRecord],
    /// The file from its first byte on.
    pub bytes: &'bytes [u8],
}

#[derive(Debug)]
struct Place {
    file: usize,
    element_type: ElementType,
    rows: usize,
    columns: usize,
    bytes: Range<usize>,
}

/// Told which bytes of which file are not needed any longer.
type Release<'bytes> = Box<dyn Fn(usize, Range<usize>) + Sync + 'bytes>;

/// The tensors of one or several files under the names of safetensors files.
pub struct FileSource<'bytes> {
    files: Vec<WeightFile<'bytes>>,
    places: HashMap<String, Place>,
    release: Option<Release<'bytes>>,
}

impl std::fmt::Debug for FileSource<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = &self.places;
        formatter
            .debug_struct("FileSource")
            .field("places", places)
            .finish_non_exhaustive()
    }
}

impl<'bytes> FileSource<'bytes> {
    /// The tensors of safetensors files.
    ///
    /// # Errors
    /// A tensor that the architecture needs has an element type without kernels.
    pub fn safetensors(architecture: &Architecture, files: Vec<WeightFile<'bytes>>) -> Result<Self, SourceError> {
        let names: HashMap<String, String> = expected_tensors(architecture)
            .into_iter()
            .map(|tensor| (tensor.name.clone(), tensor.name))
            .collect();
        Self::new(files, &names)
    }

    /// The tensors of a GGUF file.
    ///
    /// # Errors
    /// As [`FileSource::safetensors`].
    pub fn gguf(architecture: &Architecture, file: WeightFile<'bytes>) -> Result<Self, SourceError> {
        let mut names: HashMap<String, String> = expected_tensors(architecture)
            .into_iter()
            .map(|tensor| (gguf_name(architecture, &tensor.name), tensor.name))
            .collect();
        let factors = "rope_freqs.weight".to_owned();
        names.insert(factors.clone(), factors);
        if architecture.family == Family::Llama {
            // Some llamas have them; safetensors files of the family never do.
            for layer in 0..architecture.layers {
                for (part, projection) in [("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj")] {
                    names.insert(
                        format!("blk.{layer}.{part}.bias"),
                        format!("model.layers.{layer}.self_attn.{projection}.bias"),
                    );
                }
            }
        }
        Self::new(vec![file], &names)
    }

    /// How GGUF files of the architecture deviate from safetensors files.
    pub fn gguf_conventions(architecture: &Architecture) -> SourceConventions {
        SourceConventions {
            interleaved_heads: matches!(architecture.family, Family::Llama | Family::Mistral | Family::SmolLm3),
            gemma_norms_plus_one: true,
        }
    }

    fn new(files: Vec<WeightFile<'bytes>>, names: &HashMap<String, String>) -> Result<Self, SourceError> {
        let mut places = HashMap::new();
        for (index, file) in files.iter().enumerate() {
            for tensor in file.tensors {
                let Some(name) = names.get(&tensor.name) else { continue };
                let element_type =
                    ElementType::from_name(&tensor.element_type).ok_or_else(|| SourceError::ElementType {
                        tensor: tensor.name.clone(),
                        element_type: tensor.element_type.clone(),
                    })?;
                let begin = tensor.offset as usize;
                let bytes = begin..begin.saturating_add(tensor.bytes as usize);
                if file.bytes.get(bytes.clone()).is_none() {
                    return Err(SourceError::OutOfFile {
                        tensor: tensor.name.clone(),
                    });
                }
                let (rows, columns) = matrix_shape(&tensor.shape);
                let place = Place {
                    file: index,
                    element_type,
                    rows,
                    columns,
                    bytes,
                };
                places.insert(name.clone(), place);
            }
        }
        Ok(Self {
            files,
            places,
            release: None,
        })
    }

    /// Calls `release` with the number of a file and a range of its bytes when they have been copied: whoever mapped the
    /// file can give back its pages, which would count as memory of the process beside the copy.
    #[must_use]
    pub fn on_release(mut self, release: impl Fn(usize, Range<usize>) + Sync + 'bytes) -> Self {
        self.release = Some(Box::new(release));
        self
    }
}

impl TensorSource for FileSource<'_> {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let place = self.places.get(name)?;
        Some(StoredTensor {
            element_type: place.element_type,
            rows: place.rows,
            columns: place.columns,
            bytes: self.files[place.file].bytes[place.bytes.clone()].into(),
        })
    }

    fn release(&self, name: &str) {
        if let (Some(release), Some(place)) = (&self.release, self.places.get(name)) {
            release(place.file, place.bytes.clone());
        }
    }
}
