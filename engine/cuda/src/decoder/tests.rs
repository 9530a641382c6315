//! Whole models through the emulated kernels, against the decoder of the CPU.

use std::sync::atomic::Ordering;

use lem_engine::architecture::{Architecture, Family, GemmaParameters, SlidingWindow, preset};
use lem_engine::batch::Batch;
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder as HostDecoder, DecoderConfiguration, SourceConventions};
use lem_engine::sampler::UnfilteredChoice;
use lem_engine::tensor::ElementType;
use lem_engine::testing::random_model;

use super::*;
use crate::emulator::EmulatorBackend;

const CONTEXT: usize = 256;
const VOCABULARY: usize = 300;

fn tiny(family: Family) -> Architecture {
    let gemma = family.is_gemma();
    Architecture {
        family,
        hidden_size: 256,
        intermediate_size: 256,
        layers: 2,
        attention_heads: 4,
        key_value_heads: 2,
        head_dimension: 64,
        vocabulary_size: VOCABULARY,
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

fn configuration() -> DecoderConfiguration {
    DecoderConfiguration {
        blocks: 32,
        cache_type: CacheType::F16,
        token_budget: 128,
        sampled_rows: 16,
        context_length: CONTEXT,
        threads: 2,
        instruction_set: None,
        weight_type: None,
        conventions: SourceConventions::default(),
    }
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|index| (index * 37 + seed * 101) % VOCABULARY as u32)
        .collect()
}

fn blocks(first: u32) -> Vec<u32> {
    (first..first + 8).rev().collect()
}

/// Both decoders of a random model. The CPU's has the weights as floats: it would otherwise round activations.
fn decoders_on<B: Backend>(
    backend: B,
    architecture: &Architecture,
    element_type: ElementType,
) -> (HostDecoder, Decoder<B>) {
    let model = random_model(architecture, element_type, 7);
    let exact = DecoderConfiguration {
        weight_type: Some(ElementType::F32),
        ..configuration()
    };
    (
        HostDecoder::new(architecture, &model, &exact).unwrap(),
        Decoder::on(backend, architecture, &model, &configuration()).unwrap(),
    )
}

fn decoders(
    architecture: &Architecture,
    element_type: ElementType,
    records: bool,
) -> (HostDecoder, Decoder<EmulatorBackend>) {
    let backend = EmulatorBackend::new(specialisation(architecture), records);
    decoders_on(backend, architecture, element_type)
}

/// How far apart logits are, as a share of the largest.
fn distance(found: &Logits<'_>, expected: &Logits<'_>, rows: usize) -> f32 {
    let all = |logits: &Logits<'_>| -> Vec<f32> { (0..rows).flat_map(|row| logits.row(row).to_vec()).collect() };
    let (found, expected) = (all(found), all(expected));
    assert!(expected.iter().all(|logit| logit.is_finite()));
    let scale = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let apart = found
        .iter()
        .zip(&expected)
        .map(|(found, expected)| (found - expected).abs());
    // Not `f32::max`, which drops what is not a number.
    apart.fold(0.0, |most, apart| if apart <= most { most } else { apart }) / scale
}

/// A prompt in two chunks, then steps that decode beside another prompt.
fn steps() -> Vec<Batch> {
    let tokens = prompt(1, 75);
    let rows: [&[(&[u32], usize, u32)]; 4] = [
        &[(&tokens[..40], 0, 0)],
        &[(&tokens[40..], 40, 0), (&tokens[..33], 0, 8)],
        &[(&[5], 75, 0), (&tokens[33..50], 33, 8), (&[9], 0, 16)],
        &[(&[6], 76, 0), (&[7], 50, 8), (&[8], 1, 16)],
    ];
    let batch = |rows: &[(&[u32], usize, u32)]| {
        let mut batch = Batch::default();
        for (tokens, start, table) in rows {
            batch.push(tokens, *start, &blocks(*table), true);
        }
        batch
    };
    rows.into_iter().map(batch).collect()
}

/// What the types of weights and inputs of tensor cores allow.
fn tolerance(element_type: ElementType) -> f32 {
    match element_type {
        // Inputs of products are rounded to eight bits of mantissa.
        ElementType::Bf16 => 3e-2,
        // Of keys, queries and probabilities, and of the inputs of quantised matrices in long steps: eleven bits.
        _ => 1e-2,
    }
}

fn assert_same_logits(family: Family, element_type: ElementType) {
    let architecture = tiny(family);
    let backend = EmulatorBackend::new(specialisation(&architecture), false);
    assert_same_logits_on(backend, &architecture, element_type);
}

fn assert_same_logits_on<B: Backend>(backend: B, architecture: &Architecture, element_type: ElementType) {
    let family = architecture.family;
    let (mut host, mut device) = decoders_on(backend, architecture, element_type);
    for (index, batch) in steps().iter().enumerate() {
        let expected = host.forward(batch).unwrap();
        let found = device.forward(batch).unwrap();
        let apart = distance(&found, &expected, batch.sampled_rows());
        assert!(
            apart <= tolerance(element_type),
            "{} {} step {index}: {apart}",
            family.name(),
            element_type.name()
        );
    }
    let (found, expected) = (device.counts(), host.counts());
    assert!((found.flops / expected.flops - 1.0).abs() < 1e-9, "{}", family.name());
}

#[test]
fn every_family_has_the_logits_that_it_has_on_the_cpu() {
    for family in Family::ALL {
        assert_same_logits(family, ElementType::Q8_0);
    }
}

#[test]
fn every_type_of_weights_has_the_logits_that_it_has_on_the_cpu() {
    for element_type in ElementType::ALL {
        assert_same_logits(Family::Llama, element_type);
    }
}

#[test]
fn a_replayed_step_computes_what_the_launches_computed_for_other_tokens_and_positions() {
    let architecture = tiny(Family::Llama);
    let (_, mut launched) = decoders(&architecture, ElementType::Q4_0, false);
    let (_, mut replayed) = decoders(&architecture, ElementType::Q4_0, true);
    let replays = replayed.backend.replayed.clone();
    // Nine rows are padded to sixteen.
    let mut lengths = [0; 9];
    for (round, rows) in [3, 3, 3, 9, 9, 9, 3].into_iter().enumerate() {
        let mut batch = Batch::default();
        for (row, length) in lengths[..rows].iter_mut().enumerate() {
            batch.push(&[(row * 31 + round) as u32], *length, &[row as u32], true);
            *length += 1;
        }
        let expected = launched.forward(&batch).unwrap();
        let found = replayed.forward(&batch).unwrap();
        for row in 0..rows {
            assert_eq!(found.row(row), expected.row(row), "round {round} row {row}");
        }
    }
    // The first step with some number of rows is launched, the second is recorded and replayed.
    assert_eq!(replays.load(Ordering::Relaxed), 5);
}

#[test]
fn padding_writes_nothing_to_the_cache() {
    let architecture = tiny(Family::Llama);
    let (mut host, mut device) = decoders(&architecture, ElementType::F32, true);
    for round in 0..4 {
        let mut batch = Batch::default();
        // Rows of a block each; the first row's block is what padding would write to.
        (0..9_u32).for_each(|row| batch.push(&[row + round], round as usize, &[row], true));
        let expected = host.forward(&batch).unwrap();
        let found = device.forward(&batch).unwrap();
        assert!(
            distance(&found, &expected, 9) < tolerance(ElementType::F32),
            "round {round}"
        );
    }
}

#[test]
fn the_device_chooses_the_most_probable_token_or_one_by_its_seed() {
    let architecture = tiny(Family::Llama);
    let (_, mut device) = decoders(&architecture, ElementType::Q4_1, false);
    let mut batch = Batch::default();
    batch.push(&prompt(1, 20), 0, &blocks(0), true);
    batch.push(&prompt(2, 5), 0, &blocks(8), false);
    batch.push(&prompt(3, 9), 0, &blocks(16), true);
    let logits = device.forward(&batch).unwrap();
    let largest = |row: usize| {
        let logits = logits.row(row);
        (0..VOCABULARY as u32).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]))
    };
    let greedy = [largest(0), largest(1)];
    let choice = |temperature, seed, step| UnfilteredChoice {
        temperature,
        seed,
        step,
    };
    assert_eq!(device.choose(&batch, &[choice(0.0, 1, 0); 2]).unwrap(), greedy);
    // Hot enough that all tokens are about equally probable.
    let drawn = device.choose(&batch, &[choice(1e6, 1, 0), choice(1e6, 2, 0)]).unwrap();
    assert_eq!(
        drawn,
        device.choose(&batch, &[choice(1e6, 1, 0), choice(1e6, 2, 0)]).unwrap()
    );
    let others = device.choose(&batch, &[choice(1e6, 1, 1), choice(1e6, 3, 0)]).unwrap();
    assert!(drawn[0] != others[0] && drawn[1] != others[1], "{drawn:?} {others:?}");
}

#[test]
fn a_step_that_only_reads_prompts_chooses_nothing() {
    let (_, mut device) = decoders(&tiny(Family::Llama), ElementType::F16, false);
    let mut batch = Batch::default();
    batch.push(&prompt(1, 20), 0, &blocks(0), false);
    assert_eq!(device.choose(&batch, &[]).unwrap(), []);
}

#[test]
fn after_reconfiguring_longer_sequences_have_their_angles_and_the_old_limits_are_gone() {
    let architecture = tiny(Family::Llama);
    let model = random_model(&architecture, ElementType::F32, 7);
    let short = DecoderConfiguration {
        blocks: 1,
        context_length: 32,
        token_budget: 8,
        sampled_rows: 1,
        ..configuration()
    };
    let mut host = HostDecoder::new(&architecture, &model, &configuration()).unwrap();
    let backend = EmulatorBackend::new(specialisation(&architecture), true);
    let mut device = Decoder::on(backend, &architecture, &model, &short).unwrap();
    let before = device.memory();
    let mut batch = Batch::default();
    batch.push(&prompt(1, 100), 0, &blocks(0), true);
    let refused = device.forward(&batch).unwrap_err();
    assert!(refused.to_string().contains("tokens"), "{refused}");
    device.reconfigure(&configuration()).unwrap();
    let after = device.memory();
    assert_eq!((before.weights, 32 * before.cache), (after.weights, after.cache));
    let expected = host.forward(&batch).unwrap();
    let found = device.forward(&batch).unwrap();
    assert!(distance(&found, &expected, 1) < tolerance(ElementType::F32));
}

#[test]
fn what_a_device_cannot_do_is_refused_with_what_it_can() {
    let architecture = tiny(Family::Llama);
    let model = random_model(&architecture, ElementType::F32, 7);
    let floats = DecoderConfiguration {
        cache_type: CacheType::F32,
        ..configuration()
    };
    let backend = EmulatorBackend::new(specialisation(&architecture), false);
    let error = Decoder::on(backend, &architecture, &model, &floats).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a key-value cache of f32 is not supported on a GPU: only f16"
    );
    let narrow = Architecture {
        head_dimension: 8,
        ..architecture
    };
    let error = CudaDecoder::new(0, &narrow, &model, &configuration()).unwrap_err();
    assert!(matches!(
        error,
        ForwardError::Decoder(DecoderError::HeadDimension { found: 8, .. })
    ));
}

/// What only a GPU can show; its name and the rates are printed.
mod gpu {
    use std::time::Instant;

    use super::*;
    use crate::stream::CudaBackend;

    fn backend(architecture: &Architecture) -> CudaBackend {
        CudaBackend::new(0, &specialisation(architecture)).unwrap()
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU: make gpu-suite"]
    fn every_family_and_type_has_the_logits_that_it_has_on_the_cpu() {
        for family in Family::ALL {
            let architecture = tiny(family);
            for element_type in ElementType::ALL {
                assert_same_logits_on(backend(&architecture), &architecture, element_type);
            }
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU: make gpu-suite"]
    fn a_replayed_graph_gives_the_logits_of_the_launches() {
        let architecture = tiny(Family::Llama);
        let (mut host, mut device) = decoders_on(backend(&architecture), &architecture, ElementType::Q4_0);
        for round in 0..6 {
            let mut batch = Batch::default();
            (0..9_u32).for_each(|row| batch.push(&[row * 31 + round], round as usize, &[row], true));
            let expected = host.forward(&batch).unwrap();
            let found = device.forward(&batch).unwrap();
            let apart = distance(&found, &expected, 9);
            assert!(apart < tolerance(ElementType::Q4_0), "round {round}: {apart}");
        }
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU: make gpu-suite"]
    fn a_model_of_a_billion_parameters_decodes_and_reads_prompts() {
        const STEPS: usize = 100;
        let architecture = preset("tinyllama-1.1b").unwrap();
        for element_type in [ElementType::Q4_0, ElementType::Bf16] {
            let model = random_model(&architecture, element_type, 7);
            let backend = backend(&architecture);
            let name = backend.name().unwrap();
            let configuration = DecoderConfiguration {
                blocks: 64 * 8,
                token_budget: 2048,
                sampled_rows: 64,
                context_length: 256,
                ..configuration()
            };
            let mut decoder = Decoder::on(backend, &architecture, &model, &configuration).unwrap();
            let mut batch = Batch::default();
            for rows in [1, 8, 64] {
                let table = |row: usize| -> Vec<u32> { (0..8).map(|block| (row * 8 + block) as u32).collect() };
                let mut begin = Instant::now();
                for step in 0..STEPS + 10 {
                    if step == 10 {
                        begin = Instant::now();
                    }
                    batch.clear();
                    (0..rows).for_each(|row| batch.push(&[(row + step) as u32], step, &table(row), true));
                    let tokens = decoder
                        .choose(&batch, &vec![UnfilteredChoice::default(); rows])
                        .unwrap();
                    assert!(tokens.iter().all(Option::is_some));
                }
                let rate = (rows * STEPS) as f64 / begin.elapsed().as_secs_f64();
                eprintln!("{name} {} decode, {rows} rows: {rate:.0} tokens/s", element_type.name());
            }
            let mut rates = Vec::new();
            for _ in 0..5 {
                batch.clear();
                (0..8).for_each(|row| {
                    let table: Vec<u32> = (0..8).map(|block| row * 8 + block).collect();
                    batch.push(&vec![row; 256], 0, &table, true);
                });
                let begin = Instant::now();
                decoder.choose(&batch, &[UnfilteredChoice::default(); 8]).unwrap();
                rates.push(2048.0 / begin.elapsed().as_secs_f64());
            }
            eprintln!(
                "{name} {} prefill, 2048 tokens at once: {rates:.0?} tokens/s",
                element_type.name()
            );
        }
    }
}
