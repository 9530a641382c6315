//! Builds a tokenizer from GGUF metadata (`tokenizer.ggml.*`).
//!
//! The pre-tokenizers follow `llama-vocab.cpp` of llama.cpp.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::{TextTokenizer, TokenizerError};
use crate::engine::header::{GgufHeader, MetadataValue};

const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// `llama_token_type`: tokens of these types are matched in the text before anything else.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// Keys of end-of-sequence tokens: of the text, of a turn, of a message.
const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

impl TextTokenizer {
    /// Builds the tokenizer that a checked GGUF header describes. `origin` names the file in errors.
    pub fn from_gguf(header: &GgufHeader, origin: &str) -> Result<Self, TokenizerError> {
        let missing = |key: &str| TokenizerError::Missing {
            looked_for: format!("{key} in the metadata of {origin}"),
        };
        let model = header
            .text("tokenizer.ggml.model")
            .ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let tokens = header
            .texts("tokenizer.ggml.tokens")
            .ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let mut tokenizer = match model {
            "gpt2" => {
                let merges = header
                    .texts("tokenizer.ggml.merges")
                    .ok_or_else(|| missing("tokenizer.ggml.merges"))?;
                byte_level(tokens, merges, header.text("tokenizer.ggml.pre").unwrap_or("default"))?
            }
            "llama" => match header.metadata.get("tokenizer.ggml.scores") {
                Some(MetadataValue::Floats(scores)) if scores.len() == tokens.len() => {
                    sentence_piece(header, tokens, scores)?
                }
                _ => return Err(missing("one score per token (tokenizer.ggml.scores)")),
            },
            other => {
                return Err(TokenizerError::UnsupportedModel {
                    model: other.to_owned(),
                });
            }
        };
        if let Some(MetadataValue::Integers(kinds)) = header.metadata.get("tokenizer.ggml.token_type") {
            let special: Vec<AddedToken> = tokens
                .iter()
                .zip(kinds)
                .filter(|(_, kind)| matches!(**kind, CONTROL | USER_DEFINED))
                .map(|(token, kind)| AddedToken::from(token.clone(), *kind == CONTROL).normalized(false))
                .collect();
            tokenizer
                .add_special_tokens(special)
                .map_err(|source| TokenizerError::Library {
                    doing: "adding special tokens".to_owned(),
                    source,
                })?;
        }
        let begins = header
            .boolean("tokenizer.ggml.add_bos_token")
            .unwrap_or(model == "llama");
        let begin_of_sequence = header
            .unsigned("tokenizer.ggml.bos_token_id")
            .filter(|_| begins)
            .and_then(|token| u32::try_from(token).ok());
        Ok(Self {
            tokenizer,
            begin_of_sequence,
        })
    }

    /// The tokens that end a sequence, by the metadata of a GGUF file.
    pub fn end_of_sequence_tokens(header: &GgufHeader) -> Vec<u32> {
        END_KEYS
            .iter()
            .filter_map(|key| header.unsigned(key))
            .filter_map(|token| u32::try_from(token).ok())
            .collect()
    }
}

fn vocabulary(tokens: &[String]) -> Vocab {
    tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect()
}

fn library(doing: &str) -> impl FnOnce(tokenizers::Error) -> TokenizerError {
    move |source| TokenizerError::Library {
        doing: doing.to_owned(),
        source,
    }
}

fn byte_level(tokens: &[String], merges: &[String], pre_tokenizer: &str) -> Result<Tokenizer, TokenizerError> {
    let mut pairs: Merges = Vec::with_capacity(merges.len());
    for merge in merges {
        let (left, right) = merge.split_once(' ').ok_or_else(|| TokenizerError::Invalid {
            what: format!("the merge {merge:?} has no space"),
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), pairs)
        .ignore_merges(pre_tokenizer == "llama-bpe")
        .build()
        .map_err(library("building the byte-pair model"))?;
    let mut tokenizer = Tokenizer::new(model);
    let split = |pattern: &str| {
        Split::new(
            SplitPattern::Regex(pattern.to_owned()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(library("compiling the pre-tokenizer"))
    };
    let sequence = match pre_tokenizer {
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => {
            vec![split(LLAMA3_PATTERN)?.into(), ByteLevel::new(false, true, false).into()]
        }
        "qwen2" | "qwen35" => vec![split(QWEN2_PATTERN)?.into(), ByteLevel::new(false, true, false).into()],
        "smollm" | "starcoder" | "refact" | "command-r" => {
            vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]
        }
        _ => vec![ByteLevel::new(false, true, true).into()],
    };
    tokenizer.with_pre_tokenizer(Some(Sequence::new(sequence)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// `SentencePiece` byte-pair encoding: the file has scores instead of merges. A merge of two tokens ranks by the score
/// of what it makes, which is how Hugging Face converts these models too.
fn sentence_piece(header: &GgufHeader, tokens: &[String], scores: &[f32]) -> Result<Tokenizer, TokenizerError> {
    let vocabulary = vocabulary(tokens);
    let mut ranked = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left_id), Some(right_id)) = (vocabulary.get(left), vocabulary.get(right)) {
                ranked.push((*score, *left_id, *right_id, left.to_owned(), right.to_owned()));
            }
        }
    }
    ranked.sort_by(|left, right| {
        right
            .0
            .total_cmp(&left.0)
            .then((left.1, left.2).cmp(&(right.1, right.2)))
    });
    let merges: Merges = ranked.into_iter().map(|(_, _, _, left, right)| (left, right)).collect();
    let unknown = header.unsigned("tokenizer.ggml.unknown_token_id").unwrap_or(0) as usize;
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(token) = tokens.get(unknown) {
        builder = builder.unk_token(token.clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(library("building the byte-pair model"))?);
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(library("building the normalizer"));
    let mut normalizers = Vec::new();
    if header.boolean("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
        normalizers.push(Prepend::new("▁".to_owned()).into());
    }
    normalizers.push(replace(" ", "▁")?.into());
    tokenizer
        .with_normalizer(Some(NormalizerSequence::new(normalizers)))
        .map_err(library("setting the normalizer"))?;
    tokenizer.with_decoder(Some(DecoderSequence::new(vec![
        replace("▁", " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
        Strip::new(' ', 1, 0).into(),
    ])));
    Ok(tokenizer)
}
