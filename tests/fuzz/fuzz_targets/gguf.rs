//! GGUF: header, then the architecture and the tokenizer that are made from it.
#![no_main]

use std::io::Cursor;

use lem_runner::engine::{TextTokenizer, architecture::Architecture, header::validate_gguf};
use libfuzzer_sys::fuzz_target;

/// The file seems longer than the bytes given, so that tensors lie within it.
const LENGTH: u64 = 1 << 24;

fuzz_target!(|bytes: &[u8]| {
    for length in [bytes.len() as u64, LENGTH] {
        let Ok(header) = validate_gguf(&mut Cursor::new(bytes), length) else { continue };
        if let Ok(architecture) = Architecture::from_gguf(&header) {
            let _ = architecture.validate();
            let _ = architecture.matrix_parameters();
        }
        let _ = TextTokenizer::end_of_sequence_tokens(&header);
        if let Ok(tokenizer) = TextTokenizer::from_gguf(&header, "fuzz")
            && let Ok(tokens) = tokenizer.encode("Energy per token, in joules: 0.5 J.")
        {
            let _ = tokenizer.decode(&tokens);
        }
    }
});
