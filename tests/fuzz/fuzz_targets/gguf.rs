//! GGUF: header, then the architecture and the tokenizer that are made from it, then the engine and a step of it.
#![no_main]

use std::io::Cursor;

use lem_engine::batch::Batch;
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder, DecoderConfiguration};
use lem_engine::header::GgufHeader;
use lem_engine::source::{FileSource, WeightFile};
use lem_runner::engine::{TextTokenizer, architecture::Architecture, header::validate_gguf};
use libfuzzer_sys::fuzz_target;

/// The file seems longer than the bytes given, so that tensors lie within it.
const LENGTH: u64 = 1 << 24;

fuzz_target!(|bytes: &[u8]| {
    for length in [bytes.len() as u64, LENGTH] {
        let Ok(header) = validate_gguf(&mut Cursor::new(bytes), length) else { continue };
        if let Ok(architecture) = Architecture::from_gguf(&header) {
            let _ = architecture.matrix_parameters();
            if architecture.validate().is_ok() && length == bytes.len() as u64 {
                compute(&architecture, &header, bytes);
            }
        }
        let _ = TextTokenizer::end_of_sequence_tokens(&header);
        if let Ok(tokenizer) = TextTokenizer::from_gguf(&header, "fuzz")
            && let Ok(tokens) = tokenizer.encode("Energy per token, in joules: 0.5 J.")
        {
            let _ = tokenizer.decode(&tokens);
        }
    }
});

/// Packs the weights and computes a step, as the runner does for a file whose tensors it has checked; the decoder
/// checks them itself.
fn compute(architecture: &Architecture, header: &GgufHeader, bytes: &[u8]) {
    let file = WeightFile {
        tensors: &header.tensors,
        bytes,
    };
    let Ok(source) = FileSource::gguf(architecture, file) else { return };
    let configuration = DecoderConfiguration {
        blocks: 2,
        cache_type: CacheType::F16,
        token_budget: 4,
        sampled_rows: 1,
        context_length: 40.min(architecture.context_length),
        threads: 1,
        instruction_set: None,
        weight_type: None,
        conventions: FileSource::gguf_conventions(architecture),
    };
    let Ok(mut decoder) = Decoder::new(architecture, &source, &configuration) else { return };
    let mut batch = Batch::default();
    batch.push(&[0, 1, 2], 0, &[0, 1], true);
    if let Ok(logits) = decoder.forward(&batch) {
        assert_eq!(logits.row(0).len(), architecture.vocabulary_size);
    }
}
