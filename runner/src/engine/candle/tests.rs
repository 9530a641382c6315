use std::path::Path;
use std::time::Instant;

use super::*;
use crate::engine::architecture::{Architecture, Family, GemmaParameters, SlidingWindow, preset};
use crate::engine::greedy_reference::{cases, model_file};
use crate::engine::source::{ModelSource, SyntheticShape};
use crate::engine::{ComputePrecision, DeviceChoice, Implementation, LoadRequest, WeightType};
use crate::flops::architecture_flops;

/// This engine is slow: lem's own computes all cases.
const CASES: usize = 5;

fn load(source: ModelSource, dtype: Option<WeightType>) -> CandleEngine {
    let resolved = source.resolve().unwrap();
    let request = LoadRequest {
        source,
        device: DeviceChoice::Cpu,
        dtype,
        implementation: Implementation::Transformers,
    };
    CandleEngine::load(&resolved, &request).unwrap()
}

fn synthetic(architecture: Architecture, dtype: Option<WeightType>) -> CandleEngine {
    let shape = SyntheticShape::Explicit(Box::new(architecture));
    load(ModelSource::Synthetic { shape, seed: 7 }, dtype)
}

fn tiny() -> Architecture {
    preset("tiny-test").unwrap()
}

fn request(prompt: Vec<u32>, max_output_tokens: u32) -> SequenceRequest {
    SequenceRequest {
        id: 1,
        prompt,
        max_output_tokens,
        ignore_eos: true,
        sampling: Sampling::GREEDY,
    }
}

fn generate(engine: &mut CandleEngine, request: SequenceRequest) -> Vec<u32> {
    engine.submit(request).unwrap();
    let mut output = Vec::new();
    while engine.step(&mut output).unwrap() != StepKind::Idle {}
    output.iter().map(|token| token.token).collect()
}

#[test]
fn the_dequantised_model_generates_the_reference_token_for_token() {
    let Some(path) = model_file() else { return };
    let mut engine = load(ModelSource::Directory { path }, Some(WeightType::F32));
    assert_eq!(engine.description().compute_precision, ComputePrecision::Fp32);
    let start = Instant::now();
    for case in cases().into_iter().take(CASES) {
        let prompt = engine.tokenizer().unwrap().encode(&case.text).unwrap();
        assert_eq!(prompt, case.prompt, "tokens of {:?}", case.text);
        let output = generate(&mut engine, request(prompt, 64));
        assert_eq!(output, case.output, "continuation of {:?}", case.text);
    }
    println!("dequantised: {:.1} tokens/s", 320.0 / start.elapsed().as_secs_f64());
}

#[test]
fn the_quantised_model_leaves_the_reference_only_where_two_tokens_are_nearly_tied() {
    let Some(path) = model_file() else { return };
    let mut engine = load(ModelSource::Directory { path }, None);
    assert_eq!(engine.description().quantisation.as_deref(), Some("Q4_1"));
    assert_eq!(engine.description().compute_precision, ComputePrecision::Int8);
    let start = Instant::now();
    let mut generated = 0;
    for case in cases().into_iter().take(CASES) {
        engine.submit(case.request(1)).unwrap();
        let (mut tokens, mut output) = (Vec::new(), Vec::new());
        while case.output.starts_with(&output) && engine.step(&mut tokens).unwrap() != StepKind::Idle {
            output = tokens.iter().map(|token| token.token).collect();
        }
        engine.abort();
        generated += output.len();
        case.assert_leaves_at_a_near_tie(&output);
    }
    println!(
        "{:.1} tokens/s over {generated} tokens",
        generated as f64 / start.elapsed().as_secs_f64()
    );
}

fn families() -> Vec<Architecture> {
    let gemma = GemmaParameters {
        query_scale: 16,
        attention_cap: None,
        logit_cap: None,
        local_rope_theta: 1e4,
    };
    Family::ALL
        .into_iter()
        .map(|family| {
            let window = |full_attention_interval| {
                Some(SlidingWindow {
                    tokens: 128,
                    full_attention_interval,
                })
            };
            let tied = !matches!(family, Family::Mistral | Family::Phi3);
            let architecture = Architecture {
                family,
                tied_embeddings: tied,
                layers: 3,
                ..tiny()
            };
            match family {
                Family::Gemma => Architecture {
                    gemma: Some(gemma.clone()),
                    head_dimension: 32,
                    ..architecture
                },
                Family::Gemma2 => Architecture {
                    gemma: Some(gemma.clone()),
                    sliding_window: window(Some(2)),
                    ..architecture
                },
                // candle's gemma3 appends a strided tensor to its cache with more than one key-value head.
                Family::Gemma3 => Architecture {
                    key_value_heads: 1,
                    gemma: Some(gemma.clone()),
                    sliding_window: window(Some(3)),
                    ..architecture
                },
                Family::Mistral => Architecture {
                    sliding_window: window(None),
                    ..architecture
                },
                Family::Qwen3 => Architecture {
                    head_dimension: 32,
                    ..architecture
                },
                _ => architecture,
            }
        })
        .collect()
}

#[test]
fn counted_operations_equal_the_closed_form_within_one_percent_for_every_family() {
    let quantised = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Phi3];
    let quantised = quantised.map(|family| (Architecture { family, ..tiny() }, Some(WeightType::Q8_0)));
    let all = families()
        .into_iter()
        .map(|architecture| (architecture, None))
        .chain(quantised);
    for (architecture, dtype) in all {
        let mut engine = synthetic(architecture.clone(), dtype);
        let prompt: Vec<u32> = (0..40).collect();
        generate(&mut engine, request(prompt, 20));
        let counted = engine.counts().flops;
        let expected = architecture_flops(&architecture, 40, 20);
        let difference = (counted - expected).abs() / expected;
        assert!(
            difference < 0.01,
            "{:?}: counted {counted}, expected {expected}",
            architecture.family
        );
        let counts = engine.counts();
        assert_eq!(
            (counts.prefill_tokens, counts.decode_tokens, counts.steps),
            (40, 19, 20)
        );
        let cache = 2 * architecture.layers * architecture.key_value_width() * 4 * 59;
        assert_eq!(counts.kv_cache_bytes_peak, cache as u64);
    }
}

#[test]
fn a_sequence_does_not_depend_on_the_one_before_it() {
    let quantised = [
        (Family::Llama, WeightType::Q4_0),
        (Family::Qwen2, WeightType::Q8_0),
        (Family::Qwen3, WeightType::Q8_0),
        (Family::Phi3, WeightType::Q4_0),
    ]
    .map(|(family, block)| synthetic(Architecture { family, ..tiny() }, Some(block)));
    for mut engine in families()
        .into_iter()
        .map(|architecture| synthetic(architecture, None))
        .chain(quantised)
    {
        let family = engine.description().architecture.family;
        let first = generate(&mut engine, request(vec![1, 2, 3, 4, 5], 12));
        generate(&mut engine, request(vec![200, 100, 50], 30));
        engine.submit(request(vec![9, 9, 9], 30)).unwrap();
        engine.step(&mut Vec::new()).unwrap();
        engine.step(&mut Vec::new()).unwrap();
        engine.abort();
        let again = generate(&mut engine, request(vec![1, 2, 3, 4, 5], 12));
        assert_eq!(first, again, "{family:?}");
    }
}

#[test]
fn decoding_with_the_cache_gives_what_a_prefill_of_the_whole_text_gives() {
    for architecture in families() {
        let mut engine = synthetic(architecture.clone(), None);
        let mut text = vec![3, 1, 4, 1, 5];
        let output = generate(&mut engine, request(text.clone(), 8));
        for token in output {
            let next = generate(&mut engine, request(text.clone(), 1));
            assert_eq!(next, [token], "{:?} after {text:?}", architecture.family);
            text.push(token);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_weights_and_the_same_draws() {
    let sampled = |seed| {
        let sampling = Sampling {
            temperature: 1.0,
            do_sample: true,
            top_k: Some(50),
            top_p: Some(0.9),
            seed,
        };
        SequenceRequest {
            sampling,
            ..request(vec![1, 2, 3], 16)
        }
    };
    let (mut one, mut other) = (synthetic(tiny(), None), synthetic(tiny(), None));
    assert_eq!(generate(&mut one, sampled(1)), generate(&mut other, sampled(1)));
    assert_ne!(generate(&mut one, sampled(1)), generate(&mut other, sampled(2)));
    let top_one = Sampling {
        temperature: 1.0,
        do_sample: true,
        top_k: Some(1),
        top_p: None,
        seed: 3,
    };
    let greedy = generate(&mut one, request(vec![1, 2, 3], 8));
    assert_eq!(
        generate(
            &mut one,
            SequenceRequest {
                sampling: top_one,
                ..request(vec![1, 2, 3], 8)
            }
        ),
        greedy
    );
    let shape = SyntheticShape::Explicit(Box::new(tiny()));
    let mut reseeded = load(ModelSource::Synthetic { shape, seed: 8 }, None);
    assert_ne!(generate(&mut reseeded, request(vec![1, 2, 3], 8)), greedy);
}

#[test]
fn an_end_of_sequence_token_ends_the_sequence_unless_it_is_ignored() {
    let mut engine = synthetic(tiny(), None);
    let output = generate(&mut engine, request(vec![1, 2, 3], 8));
    engine.end_of_sequence = vec![output[2]];
    let first = output.iter().position(|token| *token == output[2]).unwrap();
    engine
        .submit(SequenceRequest {
            ignore_eos: false,
            ..request(vec![1, 2, 3], 8)
        })
        .unwrap();
    let mut tokens = Vec::new();
    while engine.step(&mut tokens).unwrap() != StepKind::Idle {}
    assert_eq!(tokens.len(), first + 1);
    assert_eq!(tokens.last().unwrap().finished, Some(FinishReason::EndOfSequence));
    assert_eq!(generate(&mut engine, request(vec![1, 2, 3], 8)), output);
}

#[test]
fn a_request_that_cannot_be_served_is_refused_with_the_numbers() {
    let mut engine = synthetic(tiny(), None);
    let refusal = |engine: &mut CandleEngine, request| engine.submit(request).unwrap_err();
    let error = refusal(&mut engine, request(vec![1; 600], 8));
    assert_eq!(
        error.to_string(),
        "a prompt of 600 tokens with 8 tokens of output exceeds the context of 512"
    );
    assert_eq!(error.category(), "context_exceeded");
    assert_eq!(
        refusal(&mut engine, request(vec![256], 8)).to_string(),
        "token 256 is outside the vocabulary of 256"
    );
    assert_eq!(refusal(&mut engine, request(vec![], 8)).category(), "empty_request");
    assert_eq!(refusal(&mut engine, request(vec![1], 0)).category(), "empty_request");
    engine.submit(request(vec![1; 505], 8)).unwrap();
    assert_eq!(engine.free_sequences(), 0);
    assert_eq!(refusal(&mut engine, request(vec![1], 8)).category(), "no_free_slot");
    let mut output = Vec::new();
    while engine.step(&mut output).unwrap() != StepKind::Idle {}
    assert_eq!((output.len(), output[7].finished), (8, Some(FinishReason::Length)));
}

#[test]
fn synthetic_weights_are_described_by_preset_and_seed() {
    let shape = SyntheticShape::Preset("tiny-test".to_owned());
    let engine = load(ModelSource::Synthetic { shape, seed: 5 }, Some(WeightType::Q8_0));
    let description = engine.description();
    assert_eq!(description.weights_digest, "synthetic:tiny-test:5");
    assert_eq!(description.quantisation.as_deref(), Some("Q8_0"));
    assert_eq!((description.name, description.device.as_str()), ("candle", "cpu"));
    assert!(engine.tokenizer().is_none());
    let matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160) + 2 * 256 * 64;
    assert_eq!(description.parameters, matrices + 5 * 64);
    assert_eq!(description.weight_bytes, matrices / 32 * 34 + 5 * 64 * 4);
}

#[test]
fn the_reported_version_is_the_one_in_the_lock_file() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")).unwrap();
    let expected = format!("name = \"candle-core\"\nversion = \"{}\"", super::load::CANDLE_VERSION);
    assert!(lock.contains(&expected));
}
