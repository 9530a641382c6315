//! safetensors headers, and the model configuration beside them.
#![no_main]

use std::io::Cursor;

use lem_runner::engine::{architecture::Architecture, header::validate_safetensors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = validate_safetensors(&mut Cursor::new(bytes), bytes.len() as u64);
    if let Ok(architecture) = Architecture::from_configuration(bytes) {
        let _ = architecture.validate();
        let _ = architecture.matrix_parameters();
    }
});
