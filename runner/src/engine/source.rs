//! Where a model comes from, and the local files that follow from it.

mod hub;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::architecture::{Architecture, PRESET_NAMES, preset};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSource {
    /// Local files.
    Directory {
        /// A `.gguf` file, a directory with exactly one, or a directory with `config.json` and safetensors files.
        path: PathBuf,
    },
    /// A repository of the Hugging Face Hub, or of what `HF_ENDPOINT` names instead.
    HuggingFace(HubModel),
    /// Random weights: cost like the real model's, output meaningless, no tokenizer.
    Synthetic {
        /// The shape.
        shape: SyntheticShape,
        /// Seed of the weights; the same seed gives the same weights.
        seed: u64,
    },
}

/// A model of the Hugging Face Hub.
#[derive(Clone, PartialEq, Eq)]
pub struct HubModel {
    /// Owner and name, for example `HuggingFaceTB/SmolLM2-135M-Instruct`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// A GGUF file of the repository; `None` takes its safetensors files.
    pub file: Option<String>,
    /// Access token; `None` leaves it to `HF_TOKEN` and the token file of the Hugging Face tools.
    pub token: Option<String>,
    /// Cache directory; `None` is the default of the Hugging Face tools (`HF_HUB_CACHE`, `HF_HOME`).
    pub cache_directory: Option<PathBuf>,
    /// Base address; `None` is `HF_ENDPOINT`, else the public hub.
    pub endpoint: Option<String>,
}

impl std::fmt::Debug for HubModel {
    /// Leaves the token out.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HubModel")
            .field("repository", &self.repository)
            .field("revision", &self.revision)
            .field("file", &self.file)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache_directory", &self.cache_directory)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

/// The shape of a synthetic model.
#[derive(Debug, Clone, PartialEq)]
pub enum SyntheticShape {
    /// One of [`PRESET_NAMES`].
    Preset(String),
    /// Any shape.
    Explicit(Box<Architecture>),
}

/// A source whose files are on this machine.
#[derive(Debug, Clone, PartialEq)]
pub enum ResolvedModel {
    /// One GGUF file.
    Gguf(PathBuf),
    /// Safetensors files with their configuration.
    Safetensors(SafetensorsFiles),
    /// Weights to be generated.
    Synthetic {
        /// The preset's name, or `explicit`.
        name: String,
        /// The shape.
        architecture: Architecture,
        /// Seed of the weights.
        seed: u64,
    },
}

/// The files of a model in the layout of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsFiles {
    /// `config.json`.
    pub configuration: PathBuf,
    /// `generation_config.json`; it need not exist.
    pub generation_configuration: PathBuf,
    /// `tokenizer.json`; it need not exist.
    pub tokenizer: PathBuf,
    /// Weight files in the order of their names.
    pub weights: Vec<PathBuf>,
}

/// Why a source could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A path does not exist or cannot be listed.
    #[error("{} cannot be opened", path.display())]
    Unreadable {
        /// Path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A directory holds no model.
    #[error("{} holds no model: {what}", path.display())]
    NoModel {
        /// Directory or file.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// The index of the weight files cannot be parsed.
    #[error("{} is not a usable index of weight files", path.display())]
    Index {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// The index names a file outside the model's directory.
    #[error("the index of weight files names {name:?}, which is not a plain file name")]
    IndexName {
        /// Name in the index.
        name: String,
    },
    /// The repository's name is not `owner/name`.
    #[error("the repository {repository:?} is not of the form owner/name")]
    RepositoryName {
        /// Name that was given.
        repository: String,
    },
    /// The hub could not be asked or refused.
    #[error(
        "fetching {file} of {repository} at revision {revision} failed{}",
        hub::remedy(source)
    )]
    Hub {
        /// File.
        file: String,
        /// Repository.
        repository: String,
        /// Revision.
        revision: String,
        /// Cause.
        #[source]
        source: Box<hf_hub::HFError>,
    },
    /// No preset has this name.
    #[error("there is no preset {name:?}; presets are {}", PRESET_NAMES.join(", "))]
    UnknownPreset {
        /// Name that was given.
        name: String,
    },
}

impl SourceError {
    /// A fixed name for metrics and event reasons.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "source_unreadable",
            Self::NoModel { .. } => "source_without_model",
            Self::Index { .. } | Self::IndexName { .. } => "source_index",
            Self::RepositoryName { .. } => "source_repository_name",
            Self::Hub { source, .. } => hub::category(source),
            Self::UnknownPreset { .. } => "source_unknown_preset",
        }
    }
}

impl ModelSource {
    /// Finds the files, downloading what is not in the cache.
    pub fn resolve(&self) -> Result<ResolvedModel, SourceError> {
        match self {
            Self::Directory { path } => resolve_path(path),
            Self::HuggingFace(model) => hub::fetch(model),
            Self::Synthetic {
                shape: SyntheticShape::Preset(name),
                seed,
            } => {
                let architecture = preset(name).ok_or_else(|| SourceError::UnknownPreset { name: name.clone() })?;
                Ok(ResolvedModel::Synthetic {
                    name: name.clone(),
                    architecture,
                    seed: *seed,
                })
            }
            Self::Synthetic {
                shape: SyntheticShape::Explicit(architecture),
                seed,
            } => Ok(ResolvedModel::Synthetic {
                name: "explicit".to_owned(),
                architecture: (**architecture).clone(),
                seed: *seed,
            }),
        }
    }
}

fn resolve_path(path: &Path) -> Result<ResolvedModel, SourceError> {
    let unreadable = |source| SourceError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let has_extension = |path: &Path, extension| path.extension().is_some_and(|found| found == extension);
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        if has_extension(path, "gguf") {
            return Ok(ResolvedModel::Gguf(path.to_owned()));
        }
        return Err(SourceError::NoModel {
            path: path.to_owned(),
            what: "a file must be a .gguf file".to_owned(),
        });
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.sort();
    let index = path.join("model.safetensors.index.json");
    let weights: Vec<PathBuf> = if index.is_file() {
        indexed_names(&index)?.into_iter().map(|name| path.join(name)).collect()
    } else {
        files
            .iter()
            .filter(|file| has_extension(file, "safetensors"))
            .cloned()
            .collect()
    };
    let quantised: Vec<&PathBuf> = files.iter().filter(|file| has_extension(file, "gguf")).collect();
    match (weights.is_empty(), quantised.as_slice()) {
        (true, [file]) => Ok(ResolvedModel::Gguf((*file).clone())),
        (false, _) if path.join("config.json").is_file() => Ok(ResolvedModel::Safetensors(SafetensorsFiles {
            configuration: path.join("config.json"),
            generation_configuration: path.join("generation_config.json"),
            tokenizer: path.join("tokenizer.json"),
            weights,
        })),
        (weightless, quantised) => {
            let what = format!(
                "needs config.json with *.safetensors, or exactly one *.gguf; config.json is {}, there are {} *.gguf and {} *.safetensors",
                if path.join("config.json").is_file() {
                    "there"
                } else {
                    "missing"
                },
                quantised.len(),
                if weightless { "no" } else { "some" },
            );
            Err(SourceError::NoModel {
                path: path.to_owned(),
                what,
            })
        }
    }
}

/// The names of the weight files that an index lists, each once.
fn indexed_names(index: &Path) -> Result<BTreeSet<String>, SourceError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let contents = std::fs::read(index).map_err(|source| SourceError::Unreadable {
        path: index.to_owned(),
        source,
    })?;
    let parsed: Index = serde_json::from_slice(&contents).map_err(|source| SourceError::Index {
        path: index.to_owned(),
        source,
    })?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    match names
        .iter()
        .find(|name| Path::new(name).file_name().is_none_or(|file| file != name.as_str()))
    {
        Some(name) => Err(SourceError::IndexName { name: name.clone() }),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests;
