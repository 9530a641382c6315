//! Text to tokens and back.

mod gguf;

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

/// Why a tokenizer could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The model has no tokenizer.
    #[error("no tokenizer found: looked for {looked_for}")]
    Missing {
        /// Where it was looked for.
        looked_for: String,
    },
    /// A GGUF file has a tokenizer of a kind that is not supported.
    #[error("tokenizer model {model:?} is not supported; supported are gpt2 and llama")]
    UnsupportedModel {
        /// Name in the file.
        model: String,
    },
    /// The tokenizer's parts do not fit together.
    #[error("the tokenizer is not usable: {what}")]
    Invalid {
        /// What does not fit.
        what: String,
    },
    /// The tokenizers library refused it.
    #[error("the tokenizers library failed while {doing}")]
    Library {
        /// What was being done.
        doing: String,
        /// Cause.
        #[source]
        source: tokenizers::Error,
    },
}

/// Translates between text and the model's tokens.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Put before each text, if the GGUF file asks for it; `tokenizer.json` does this by itself.
    begin_of_sequence: Option<u32>,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let missing = || TokenizerError::Missing {
            looked_for: path.display().to_string(),
        };
        if !path.is_file() {
            return Err(missing());
        }
        let doing = format!("reading {}", path.display());
        let tokenizer =
            Tokenizer::from_file(PathBuf::from(path)).map_err(|source| TokenizerError::Library { doing, source })?;
        Ok(Self {
            tokenizer,
            begin_of_sequence: None,
        })
    }

    /// The tokens of a text, with a begin-of-sequence token where the model has one. Special tokens spelled out in
    /// the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|source| TokenizerError::Library {
                doing: "encoding".to_owned(),
                source,
            })?;
        Ok(self
            .begin_of_sequence
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    /// The text of some tokens, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.tokenizer
            .decode(tokens, true)
            .map_err(|source| TokenizerError::Library {
                doing: "decoding".to_owned(),
                source,
            })
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

#[cfg(test)]
mod tests;
