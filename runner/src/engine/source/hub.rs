//! Fetches a model from the Hugging Face Hub into its cache.

use std::path::PathBuf;

use hf_hub::{HFClient, HFError};

use super::{HubModel, ResolvedModel, SafetensorsFiles, SourceError, indexed_names};

/// A fixed name for what the hub answered: the first two do not change by asking again.
pub(super) fn category(error: &HFError) -> &'static str {
    match error {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => "source_access_denied",
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            "source_not_found"
        }
        _ => "source_hub",
    }
}

/// What a user can do about it, to follow the message.
pub(super) fn remedy(error: &HFError) -> &'static str {
    match category(error) {
        "source_access_denied" => {
            " (the hub refuses this token: put one that may read the repository into the Secret of \
             model.source.huggingFace.tokenSecretRef, or into HF_TOKEN for `lem run`)"
        }
        "source_not_found" => {
            " (check model.name, and revision and file of model.source.huggingFace; the hub also hides a private \
             repository from a token that may not read it)"
        }
        _ => "",
    }
}

/// Downloads what is not in the cache yet. With a named file: that file. Otherwise: `config.json`, the weight files of
/// `model.safetensors.index.json` or `model.safetensors`, and, if they exist, `tokenizer.json` and
/// `generation_config.json`.
pub(super) fn fetch(model: &HubModel) -> Result<ResolvedModel, SourceError> {
    let failed = |file: &str, source| SourceError::Hub {
        file: file.to_owned(),
        repository: model.repository.clone(),
        revision: model.revision.clone(),
        source: Box::new(source),
    };
    let malformed = || SourceError::RepositoryName {
        repository: model.repository.clone(),
    };
    let (owner, name) = model.repository.split_once('/').ok_or_else(malformed)?;
    if owner.is_empty() || name.is_empty() || name.contains('/') {
        return Err(malformed());
    }
    let mut builder = HFClient::builder();
    if let Some(endpoint) = &model.endpoint {
        builder = builder.endpoint(endpoint.as_str());
    }
    if let Some(token) = &model.token {
        builder = builder.token(token.as_str());
    }
    if let Some(directory) = &model.cache_directory {
        builder = builder.cache_dir(directory);
    }
    let client = builder.build_sync().map_err(|source| failed("the client", source))?;
    let repository = client.model(owner, name);
    let download = |file: &str| -> Result<PathBuf, HFError> {
        repository
            .download_file()
            .filename(file)
            .revision(model.revision.as_str())
            .send()
    };
    let required = |file: &str| download(file).map_err(|source| failed(file, source));
    let optional = |file: &str| match download(file) {
        Ok(path) => Ok(Some(path)),
        Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. }) => Ok(None),
        Err(source) => Err(failed(file, source)),
    };
    if let Some(file) = &model.file {
        return Ok(ResolvedModel::Gguf(required(file)?));
    }
    let configuration = required("config.json")?;
    let weights = match optional("model.safetensors.index.json")? {
        Some(index) => indexed_names(&index)?
            .iter()
            .map(|file| required(file))
            .collect::<Result<_, _>>()?,
        None => vec![required("model.safetensors")?],
    };
    let beside = |file: &str| configuration.with_file_name(file);
    Ok(ResolvedModel::Safetensors(SafetensorsFiles {
        generation_configuration: optional("generation_config.json")?
            .unwrap_or_else(|| beside("generation_config.json")),
        tokenizer: optional("tokenizer.json")?.unwrap_or_else(|| beside("tokenizer.json")),
        configuration,
        weights,
    }))
}
