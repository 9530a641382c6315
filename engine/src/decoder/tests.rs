use super::*;
use crate::architecture::{Family, GemmaParameters, SlidingWindow, preset};
use crate::testing::random_model;

const CONTEXT: usize = 256;

fn tiny(family: Family) -> Architecture {
    let gemma = family.is_gemma();
    Architecture {
        family,
        hidden_size: 256,
        intermediate_size: 256,
        layers: 3,
        attention_heads: 4,
        key_value_heads: 2,
        head_dimension: 64,
        vocabulary_size: 300,
        context_length: CONTEXT,
        tied_embeddings: gemma,
        sliding_window: matches!(family, Family::Mistral | Family::Gemma2 | Family::Gemma3).then_some(SlidingWindow {
            tokens: 40,
            full_attention_interval: gemma.then_some(2),
        }),
        gemma: gemma.then_some(GemmaParameters {
            query_scale: 64,
            attention_cap: (family == Family::Gemma2).then_some(50.0),
            logit_cap: (family == Family::Gemma2).then_some(30.0),
            local_rope_theta: 1e4,
        }),
        ..preset("tiny-test").unwrap()
    }
}

fn configuration(set: InstructionSet, threads: usize) -> DecoderConfiguration {
    DecoderConfiguration {
        blocks: 64,
        cache_type: CacheType::F16,
        token_budget: 256,
        sampled_rows: 16,
        context_length: CONTEXT,
        threads,
        instruction_set: Some(set),
        weight_type: None,
        conventions: SourceConventions::default(),
    }
}

fn decoder(architecture: &Architecture, element_type: ElementType, set: InstructionSet, threads: usize) -> Decoder {
    let model = random_model(architecture, element_type, 7);
    Decoder::new(architecture, &model, &configuration(set, threads)).unwrap()
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|index| (index * 37 + seed * 101) % 300)
        .collect()
}

fn blocks(first: u32) -> Vec<u32> {
    (first..first + 8).rev().collect()
}

/// Logits after the last token, computed in one step.
fn whole(decoder: &mut Decoder, tokens: &[u32], table: &[u32]) -> Vec<f32> {
    let mut batch = Batch::default();
    batch.push(tokens, 0, table, true);
    decoder.forward(&batch).unwrap().row(0).to_vec()
}

#[test]
fn every_family_and_type_gives_the_same_bits_whole_chunked_decoded_batched_and_with_a_shared_prefix() {
    for family in Family::ALL {
        let architecture = tiny(family);
        for element_type in ElementType::ALL {
            let mut decoder = decoder(&architecture, element_type, InstructionSet::detect(), 2);
            let tokens = prompt(1, 150);
            let expected = whole(&mut decoder, &tokens, &blocks(0));
            assert!(
                expected.iter().all(|logit| logit.is_finite()),
                "{family:?} {element_type:?}"
            );
            let mut batch = Batch::default();
            let case = format!("{} {}", family.name(), element_type.name());

            // In chunks that end anywhere, the last of them decoded token by token.
            let mut done = 0;
            for length in [1, 30, 33, 64, 10, 9, 1, 1, 1] {
                batch.clear();
                batch.push(&tokens[done..done + length], done, &blocks(8), true);
                done += length;
                let logits = decoder.forward(&batch).unwrap();
                if done == tokens.len() {
                    assert_eq!(logits.row(0), expected, "{case}: chunked");
                }
            }

            // Beside other sequences: decoding ones, and other prompts.
            let others = [prompt(2, 70), prompt(3, 33)];
            whole(&mut decoder, &others[0], &blocks(16));
            whole(&mut decoder, &tokens[..149], &blocks(24));
            batch.clear();
            batch.push(&[5], 70, &blocks(16), true);
            batch.push(&tokens[149..], 149, &blocks(24), true);
            batch.push(&others[1], 0, &blocks(32), true);
            assert_eq!(decoder.forward(&batch).unwrap().row(1), expected, "{case}: batched");

            // With the first two blocks of another sequence that has the same tokens there.
            let mut table = blocks(40);
            table[..2].copy_from_slice(&blocks(0)[..2]);
            batch.clear();
            batch.push(&tokens[64..], 64, &table, true);
            assert_eq!(
                decoder.forward(&batch).unwrap().row(0),
                expected,
                "{case}: shared prefix"
            );
        }
    }
}

/// What the decoder shares among its threads without locks, an interpreter can follow in a model of this size only.
#[test]
fn two_threads_of_the_smallest_model_touch_nothing_of_each_other() {
    for (family, element_type) in [
        (Family::Qwen3, ElementType::F32),
        (Family::Gemma2, ElementType::Q8_0),
        (Family::Phi3, ElementType::Bf16),
    ] {
        let architecture = Architecture {
            hidden_size: 32,
            intermediate_size: 32,
            layers: 1,
            attention_heads: 2,
            key_value_heads: 1,
            head_dimension: 32,
            vocabulary_size: 20,
            ..tiny(family)
        };
        let mut decoder = decoder(&architecture, element_type, InstructionSet::detect(), 2);
        let tokens = [3, 1, 19, 7, 14, 11];
        let expected = whole(&mut decoder, &tokens, &blocks(0));
        assert!(expected.iter().all(|logit| logit.is_finite()), "{family:?}");
        let mut batch = Batch::default();
        batch.push(&tokens[..5], 0, &blocks(8), false);
        decoder.forward(&batch).unwrap();
        batch.clear();
        batch.push(&[2, 5], 0, &blocks(16), true);
        batch.push(&tokens[5..], 5, &blocks(8), true);
        assert_eq!(decoder.forward(&batch).unwrap().row(1), expected, "{family:?}");
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let architecture = tiny(Family::Llama);
    let tokens = prompt(4, 120);
    let expected = whole(
        &mut decoder(&architecture, ElementType::Q4_1, InstructionSet::detect(), 1),
        &tokens,
        &blocks(0),
    );
    for threads in [2, 3, 7] {
        let mut decoder = decoder(&architecture, ElementType::Q4_1, InstructionSet::detect(), threads);
        assert_eq!(whole(&mut decoder, &tokens, &blocks(0)), expected, "{threads} threads");
    }
}

#[test]
fn every_instruction_set_gives_the_same_logits() {
    let architecture = tiny(Family::Qwen3);
    for element_type in [ElementType::F32, ElementType::Q4K, ElementType::Q8_0] {
        let expected = whole(
            &mut decoder(&architecture, element_type, InstructionSet::Scalar, 1),
            &prompt(5, 40),
            &blocks(0),
        );
        for set in InstructionSet::available() {
            let mut decoder = decoder(&architecture, element_type, *set, 1);
            assert_eq!(
                whole(&mut decoder, &prompt(5, 40), &blocks(0)),
                expected,
                "{}",
                set.name()
            );
        }
    }
}

#[test]
fn a_batch_beyond_what_the_decoder_was_built_for_is_refused_and_the_next_one_works() {
    let architecture = tiny(Family::Llama);
    let mut decoder = decoder(&architecture, ElementType::Q8_0, InstructionSet::detect(), 2);
    let mut batch = Batch::default();
    let mut refuse = |tokens: &[u32], start, table: &[u32], expected: &str| {
        batch.clear();
        batch.push(tokens, start, table, true);
        let message = decoder.forward(&batch).unwrap_err().to_string();
        assert_eq!(message, expected);
    };
    refuse(&[0; 257], 0, &blocks(0), "the step's tokens: 257, more than 256");
    refuse(&[300], 0, &blocks(0), "the step's token: 300, more than 299");
    refuse(&[1], 0, &[64], "the step's block: 64, more than 63");
    refuse(&[1, 2], 31, &[3], "the step's positions: 33, more than 32");
    refuse(&[1], 256, &[0; 9], "the step's positions: 257, more than 256");
    assert_eq!(whole(&mut decoder, &[1, 2, 3], &blocks(0)).len(), 300);
}

#[test]
fn a_missing_tensor_and_one_of_another_shape_are_named() {
    let architecture = tiny(Family::Llama);
    let model = random_model(&architecture, ElementType::F32, 1);
    let wider = Architecture {
        intermediate_size: 512,
        ..architecture.clone()
    };
    let build = |architecture: &Architecture| {
        Decoder::new(architecture, &model, &configuration(InstructionSet::Scalar, 1))
            .unwrap_err()
            .to_string()
    };
    let expected = "tensor \"model.layers.0.mlp.gate_proj.weight\" has the shape [256, 256], not [512, 256]";
    assert_eq!(build(&wider), expected);
    let biased = Architecture {
        layers: 4,
        ..architecture.clone()
    };
    assert_eq!(
        build(&biased),
        "the model has no tensor \"model.layers.3.input_layernorm.weight\""
    );
    let narrow = Architecture {
        head_dimension: 24,
        ..architecture
    };
    assert_eq!(
        build(&narrow),
        "heads of 24 elements are not supported: a multiple of 16, at most 256"
    );
}

#[test]
fn memory_is_the_packed_weights_and_the_blocks() {
    let architecture = tiny(Family::Llama);
    let decoder = decoder(&architecture, ElementType::F32, InstructionSet::detect(), 1);
    let memory = decoder.memory();
    let padded = (304 - 300) * 256 * 2;
    assert_eq!(memory.weights as u64, 4 * (architecture.matrix_parameters() + padded));
    assert_eq!(memory.cache, 64 * decoder.block_bytes());
    assert_eq!(decoder.block_bytes(), 3 * 2 * 128 * 32 * 2);
}
