use lem_crds::experiment::{ContinuousBatching, StaticBatching};

use super::*;
use crate::engine::greedy_reference::{OUTPUT_TOKENS, cases, model_file};
use crate::engine::source::{ModelSource, SyntheticShape};
use crate::engine::{ComputePrecision, DeviceChoice, Implementation, LoadRequest, Sampling, WeightType, load};
use crate::flops::architecture_flops;

fn engine(dtype: WeightType, implementation: Implementation) -> Box<dyn Engine> {
    load(&LoadRequest {
        source: ModelSource::Synthetic {
            shape: SyntheticShape::Preset("tiny-test".to_owned()),
            seed: 3,
        },
        device: DeviceChoice::Cpu,
        dtype: Some(dtype),
        implementation,
    })
    .unwrap()
}

fn request(id: u64, length: u32, output: u32) -> SequenceRequest {
    SequenceRequest {
        id,
        prompt: (0..length).map(|index| (index * 7 + id as u32 * 31) % 256).collect(),
        max_output_tokens: output,
        ignore_eos: true,
        sampling: Sampling::GREEDY,
    }
}

/// The tokens of each request, all submitted as there is room.
fn run(engine: &mut dyn Engine, batching: Batching, requests: &[SequenceRequest]) -> Vec<Vec<u32>> {
    engine
        .configure(&EngineConfiguration {
            batching,
            sequence_positions: 200,
        })
        .unwrap();
    let mut tokens = vec![Vec::new(); requests.len()];
    let mut pending = requests.iter();
    let mut output = Vec::new();
    loop {
        while engine.free_sequences() > 0
            && let Some(request) = pending.next()
        {
            engine.submit(request.clone()).unwrap();
        }
        if engine.step(&mut output).unwrap() == StepKind::Idle {
            return tokens;
        }
        for token in output.drain(..) {
            tokens[token.sequence as usize].push(token.token);
        }
    }
}

fn one_at_a_time() -> Batching {
    Batching::Static(StaticBatching { batch_size: 1 })
}

fn continuous(prefix_caching: PrefixCaching) -> Batching {
    Batching::Continuous(ContinuousBatching {
        max_sequences: 5,
        token_budget: 24,
        kv_cache_blocks: None,
        prefix_caching,
    })
}

#[test]
fn greedy_tokens_are_those_of_candle_for_f32() {
    let requests: Vec<SequenceRequest> = (0..6).map(|id| request(id, 9 + 11 * id as u32, 24)).collect();
    let ours = run(
        engine(WeightType::F32, Implementation::Lem).as_mut(),
        one_at_a_time(),
        &requests,
    );
    let candle = run(
        engine(WeightType::F32, Implementation::Transformers).as_mut(),
        one_at_a_time(),
        &requests,
    );
    assert_eq!(ours, candle);
}

fn smollm2(dtype: Option<WeightType>) -> Option<Box<dyn Engine>> {
    let path = model_file()?;
    let request = LoadRequest {
        source: ModelSource::Directory { path },
        device: DeviceChoice::Cpu,
        dtype,
        implementation: Implementation::Lem,
    };
    Some(load(&request).unwrap())
}

#[test]
fn the_dequantised_model_generates_the_reference_token_for_token_alone_and_among_others() {
    let Some(mut engine) = smollm2(Some(WeightType::F32)) else {
        return;
    };
    assert_eq!(engine.description().compute_precision, ComputePrecision::Fp32);
    let cases = cases();
    assert_eq!(cases.len(), 20);
    let requests: Vec<SequenceRequest> = (0..).zip(&cases).map(|(id, case)| case.request(id)).collect();
    // Chunked prompts, prefixes that several prompts share, and sequences that come and go.
    for batching in [one_at_a_time(), continuous(PrefixCaching::PerWindow)] {
        let output = run(engine.as_mut(), batching, &requests);
        for (case, output) in cases.iter().zip(output) {
            assert_eq!(output, case.output, "continuation of {:?}", case.text);
        }
    }
}

#[test]
fn the_quantised_model_leaves_the_reference_only_where_two_tokens_are_nearly_tied() {
    let Some(mut engine) = smollm2(None) else { return };
    assert_eq!(engine.description().quantisation.as_deref(), Some("Q4_1"));
    let cases = cases();
    let requests: Vec<SequenceRequest> = (0..).zip(&cases).map(|(id, case)| case.request(id)).collect();
    let output = run(engine.as_mut(), continuous(PrefixCaching::Disabled), &requests);
    for (case, output) in cases.iter().zip(output) {
        assert_eq!(output.len(), OUTPUT_TOKENS as usize);
        case.assert_leaves_at_a_near_tie(&output);
    }
}

#[test]
fn a_request_has_the_same_tokens_alone_in_static_batches_and_under_continuous_batching() {
    let requests: Vec<SequenceRequest> = (0..9)
        .map(|id| request(id, 5 + 17 * id as u32 % 60, 10 + id as u32))
        .collect();
    for dtype in [WeightType::F32, WeightType::Bf16, WeightType::Q8_0] {
        let mut engine = engine(dtype, Implementation::Lem);
        let expected = run(engine.as_mut(), one_at_a_time(), &requests);
        let batched = Batching::Static(StaticBatching { batch_size: 4 });
        assert_eq!(run(engine.as_mut(), batched, &requests), expected, "{dtype:?}");
        assert_eq!(
            run(engine.as_mut(), continuous(PrefixCaching::Disabled), &requests),
            expected
        );
        assert_eq!(
            run(engine.as_mut(), continuous(PrefixCaching::PerWindow), &requests),
            expected
        );
    }
}

#[test]
fn a_warm_prefix_is_found_again_and_a_salted_one_is_not() {
    let mut engine = engine(WeightType::F32, Implementation::Lem);
    let requests = [request(0, 100, 4)];
    run(engine.as_mut(), continuous(PrefixCaching::Warm), &requests);
    let mut again = |salt| {
        let before = engine.counts().blocks.unwrap();
        engine.begin_window(salt);
        engine.submit(request(0, 100, 4)).unwrap();
        while engine.step(&mut Vec::new()).unwrap() != StepKind::Idle {}
        let after = engine.counts().blocks.unwrap();
        assert_eq!(after.queried_tokens.unwrap() - before.queried_tokens.unwrap(), 100);
        after.hit_tokens.unwrap() - before.hit_tokens.unwrap()
    };
    assert_eq!(again(None), 96);
    assert_eq!(again(Some(9)), 0);
    assert_eq!(again(None), 96);
}

#[test]
fn counted_operations_are_those_of_the_architecture() {
    let mut engine = engine(WeightType::F32, Implementation::Lem);
    let requests: Vec<SequenceRequest> = (0..4).map(|id| request(id, 40, 12)).collect();
    run(engine.as_mut(), continuous(PrefixCaching::Disabled), &requests);
    let counted = engine.counts().flops;
    let expected: f64 = (0..4)
        .map(|_| architecture_flops(&engine.description().architecture, 40, 12))
        .sum();
    assert!((counted / expected - 1.0).abs() < 0.01, "{counted} is not {expected}");
    assert!(engine.counts().bytes.unwrap() > engine.description().weight_bytes as f64);
}

#[test]
fn static_batches_count_their_rows_and_their_padding() {
    let mut engine = engine(WeightType::F32, Implementation::Lem);
    let requests = [request(0, 10, 3), request(1, 30, 5)];
    run(
        engine.as_mut(),
        Batching::Static(StaticBatching { batch_size: 2 }),
        &requests,
    );
    let counts = engine.counts();
    let batches = counts.static_batches.unwrap();
    assert_eq!((batches.padded_tokens, batches.real_tokens), (60, 40));
    assert_eq!((batches.rows, batches.steps), (6, 4));
    assert_eq!((counts.prefill_tokens, counts.decode_tokens), (40, 6));
}
