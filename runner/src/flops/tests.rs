use super::*;
use crate::engine::architecture::{Architecture, SlidingWindow, preset};

#[test]
fn attention_pairs_equal_a_direct_enumeration() {
    for context in [0, 1, 5, 12] {
        for tokens in [0, 1, 2, 9] {
            for window in [None, Some(1), Some(4), Some(100)] {
                let direct: u128 = (context..context + tokens)
                    .map(|position| u128::from(position + 1).min(window.map_or(u128::MAX, |window| window as u128)))
                    .sum();
                assert_eq!(
                    attention_pairs(context, tokens, window),
                    direct,
                    "{context} {tokens} {window:?}"
                );
            }
        }
    }
}

#[test]
fn a_prefill_has_half_a_square_of_pairs_and_a_decode_step_its_context() {
    assert_eq!(attention_pairs(0, 512, None), 512 * 513 / 2);
    assert_eq!(attention_pairs(512, 1, None), 513);
    assert_eq!(attention_pairs(512, 1, Some(128)), 128);
}

#[test]
fn the_closed_form_of_a_known_model_is_what_is_computed_by_hand() {
    let model = preset("smollm2-135m").unwrap();
    let (prompt, output) = (100, 10);
    let layer = 2.0 * (576.0 * 576.0 * 2.0 + 576.0 * 192.0 * 2.0 + 3.0 * 576.0 * 1536.0);
    let pairs: f64 = (1..=109).map(f64::from).sum();
    let expected = 30.0 * (layer * 109.0 + 4.0 * 576.0 * pairs) + 2.0 * 576.0 * 49_152.0 * 10.0;
    let computed = architecture_flops(&model, prompt, output);
    assert!((computed - expected).abs() < 1.0, "{computed} is not {expected}");
    assert!(architecture_flops(&model, 0, 5) == 0.0 && architecture_flops(&model, 5, 0) == 0.0);
}

#[test]
fn a_prefill_and_its_decode_steps_add_up_to_the_sequence() {
    let window = Some(SlidingWindow {
        tokens: 16,
        full_attention_interval: Some(2),
    });
    let model = Architecture {
        sliding_window: window,
        ..preset("tiny-test").unwrap()
    };
    let whole = architecture_flops(&model, 30, 12);
    let parts = prefill_flops(&model, 30) + (30..41).map(|context| decode_flops(&model, context, 1)).sum::<f64>();
    assert!((whole - parts).abs() < 1e-3, "{whole} is not {parts}");
}

#[test]
fn twice_the_parameters_per_token_is_near_the_closed_form_for_short_contexts() {
    let model = preset("llama-3.1-8b").unwrap();
    let closed = decode_flops(&model, 16, 1);
    let simple = parameter_flops(model.matrix_parameters(), 1);
    assert!((0.9..1.1).contains(&(closed / simple)), "{closed} and {simple}");
}

#[test]
fn a_method_has_the_confidence_of_its_tier() {
    let tiers = [FlopsMethod::Counted, FlopsMethod::Architecture, FlopsMethod::Parameters];
    assert_eq!(tiers.map(FlopsMethod::confidence), ["high", "medium", "low"]);
}
