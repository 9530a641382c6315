use std::collections::BTreeMap;

use super::*;
use crate::engine::header::{GgufHeader, MetadataValue};

fn header(entries: Vec<(&str, MetadataValue)>) -> GgufHeader {
    let metadata: BTreeMap<String, MetadataValue> = entries
        .into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
        .collect();
    GgufHeader {
        version: 3,
        metadata,
        tensors: Vec::new(),
        data_offset: 0,
    }
}

fn text(text: &str) -> MetadataValue {
    MetadataValue::Text(text.to_owned())
}

fn texts(values: &[&str]) -> MetadataValue {
    MetadataValue::Texts(values.iter().map(|&value| value.to_owned()).collect())
}

fn byte_pairs() -> Vec<(&'static str, MetadataValue)> {
    vec![
        ("model", text("gpt2")),
        ("pre", text("smollm")),
        ("tokens", texts(&["a", "b", "ab", "Ġ", "Ġab", "1", "2", "<|end|>"])),
        ("merges", texts(&["a b", "Ġ ab"])),
        ("token_type", MetadataValue::Integers(vec![1, 1, 1, 1, 1, 1, 1, 3])),
        ("eos_token_id", MetadataValue::Integer(7)),
        ("bos_token_id", MetadataValue::Integer(7)),
    ]
}

#[test]
fn byte_level_merges_single_digits_and_special_tokens_come_from_the_metadata() {
    let header = header(byte_pairs());
    let tokenizer = TextTokenizer::from_gguf(&header, "test").unwrap();
    assert_eq!(tokenizer.encode("ab ab12<|end|>a").unwrap(), [2, 4, 5, 6, 7, 0]);
    assert_eq!(tokenizer.decode(&[2, 4, 5, 6, 7]).unwrap(), "ab ab12");
    assert_eq!(TextTokenizer::end_of_sequence_tokens(&header), [7]);
    assert_eq!(tokenizer.vocabulary_size(), 8);
}

#[test]
fn a_begin_of_sequence_token_is_added_only_where_the_file_asks_for_it() {
    let mut entries = byte_pairs();
    entries.push(("add_bos_token", MetadataValue::Boolean(true)));
    let tokenizer = TextTokenizer::from_gguf(&header(entries), "test").unwrap();
    assert_eq!(tokenizer.encode("a").unwrap(), [7, 0]);
}

#[test]
fn sentence_piece_merges_follow_the_scores_and_unknown_characters_fall_back_to_bytes() {
    let tokens = ["<unk>", "<s>", "▁", "a", "b", "▁a", "ab", "▁ab", "<0xC3>", "<0xA9>"];
    let scores = vec![0.0, 0.0, -9.0, -8.0, -7.0, -3.0, -2.0, -1.0, 0.0, 0.0];
    let header = header(vec![
        ("model", text("llama")),
        ("tokens", texts(&tokens)),
        ("scores", MetadataValue::Floats(scores)),
        (
            "token_type",
            MetadataValue::Integers(vec![2, 3, 1, 1, 1, 1, 1, 1, 6, 6]),
        ),
        ("bos_token_id", MetadataValue::Integer(1)),
    ]);
    let tokenizer = TextTokenizer::from_gguf(&header, "test").unwrap();
    assert_eq!(tokenizer.encode("ab aé").unwrap(), [1, 7, 5, 8, 9]);
    assert_eq!(tokenizer.decode(&[1, 7, 5, 8, 9]).unwrap(), "ab aé");
}

#[test]
fn a_missing_or_foreign_tokenizer_is_refused_with_the_place_that_was_looked_at() {
    let error = TextTokenizer::from_file(Path::new("/nowhere/tokenizer.json")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no tokenizer found: looked for /nowhere/tokenizer.json"
    );
    let error = TextTokenizer::from_gguf(&header(vec![]), "model.gguf").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no tokenizer found: looked for tokenizer.ggml.model in the metadata of model.gguf"
    );
    let error =
        TextTokenizer::from_gguf(&header(vec![("model", text("bert")), ("tokens", texts(&[]))]), "x").unwrap_err();
    assert!(error.to_string().contains("\"bert\" is not supported"));
}

#[test]
fn merges_that_name_unknown_tokens_are_an_error() {
    let mut entries = byte_pairs();
    entries[3] = ("merges", texts(&["a z"]));
    assert!(TextTokenizer::from_gguf(&header(entries), "test").is_err());
    let mut entries = byte_pairs();
    entries[3] = ("merges", texts(&["ab"]));
    assert!(TextTokenizer::from_gguf(&header(entries), "test").is_err());
}
