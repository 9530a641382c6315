//! What an implementation that shares no code with ours generates with `SmolLM2`: `tests/reference/llama_reference.py`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Sampling, SequenceRequest};

const MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Tokens of each case's output.
pub(super) const OUTPUT_TOKENS: u32 = 64;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

/// A prompt and what follows it, computed with the weights as 32-bit floats.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) text: String,
    pub(super) prompt: Vec<u32>,
    pub(super) output: Vec<u32>,
    /// Per step: the five best tokens and how far each logit is below the best.
    candidates: Vec<Vec<(u32, f32)>>,
}

impl Case {
    /// A request for this case's output.
    pub(super) fn request(&self, id: u64) -> SequenceRequest {
        SequenceRequest {
            id,
            prompt: self.prompt.clone(),
            max_output_tokens: OUTPUT_TOKENS,
            ignore_eos: true,
            sampling: Sampling::GREEDY,
        }
    }

    /// Panics if `output` leaves the reference where the two tokens were not nearly tied. After that the two continue
    /// different texts: there is nothing left to compare.
    pub(super) fn assert_leaves_at_a_near_tie(&self, output: &[u32]) {
        let pairs = output.iter().zip(&self.output);
        let Some(step) = pairs.into_iter().position(|(ours, theirs)| ours != theirs) else {
            println!("{:?}: all {} tokens equal", self.text, output.len());
            return;
        };
        let candidate = self.candidates[step].iter().find(|(token, _)| *token == output[step]);
        println!(
            "{:?}: {step} tokens equal, then {candidate:?} instead of {}",
            self.text, self.output[step]
        );
        assert!(
            candidate.is_some_and(|(_, gap)| *gap < 0.5),
            "token {} at step {step} of {:?} is not among the near ties {:?}",
            output[step],
            self.text,
            self.candidates[step]
        );
    }
}

/// The real model, or `None` with a message if this machine does not have it.
pub(super) fn model_file() -> Option<PathBuf> {
    let in_repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let directory = std::env::var_os("LEM_MODEL_DIRECTORY").map_or(in_repository, PathBuf::from);
    let file = directory.join(MODEL_FILE);
    if file.is_file() {
        return Some(file);
    }
    println!("SKIPPED: no {MODEL_FILE} in {directory:?}; set LEM_MODEL_DIRECTORY");
    None
}

/// All cases.
pub(super) fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/greedy-reference.json");
    let reference: Reference = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    reference.cases
}
