//! What is measured.

use super::results::Key;

/// Weight files; the real model's first.
pub(crate) const FILES: [&str; 11] = [
    "smollm2-135m.q4_1.gguf",
    "smollm2-135m.q4_0.gguf",
    "smollm2-135m.q8_0.gguf",
    "smollm2-135m.q4_k.gguf",
    "smollm2-135m.bf16.gguf",
    "smollm2-135m.f32.gguf",
    "tinyllama-1.1b.q4_0.gguf",
    "tinyllama-1.1b.q4_1.gguf",
    "tinyllama-1.1b.q8_0.gguf",
    "tinyllama-1.1b.q4_k.gguf",
    "tinyllama-1.1b.bf16.gguf",
];

/// Batches and prompts; the short ones come first, so that the long ones can be predicted from them.
pub(crate) const SHAPES: [(usize, usize); 4] = [(1, 128), (8, 128), (1, 2048), (8, 2048)];

/// Whether a cell is one of the few that take most of the time.
pub(super) fn is_longest(key: &Key) -> bool {
    key.file.starts_with("tinyllama") && key.batch * key.prompt > 8192
}
