use proptest::prelude::*;
use rand::Rng;

use super::*;

fn sampling(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
    Sampling {
        temperature,
        do_sample: true,
        top_k,
        top_p,
        seed: 7,
    }
}

fn draw(sampling: Sampling, logits: &[f32]) -> Result<u32, SamplerError> {
    Sampler::new(sampling).sample(logits, &mut SamplerScratch::default())
}

/// What candle's `LogitsProcessor` does, written down plainly: each token's probability after the filters.
fn naive(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
    let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits
        .iter()
        .map(|&logit| (f64::from(logit - maximum) / sampling.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&left, &right| weights[right].total_cmp(&weights[left]));
    let kept_by_count = sampling.top_k.unwrap_or(usize::MAX);
    let bound = sampling
        .top_p
        .filter(|bound| *bound > 0.0 && *bound < 1.0)
        .unwrap_or(f64::INFINITY);
    let mut probabilities = vec![0.0; logits.len()];
    let mut sum = 0.0;
    for &token in order.iter().take(kept_by_count) {
        if sum >= bound {
            break;
        }
        probabilities[token] = weights[token] / total;
        sum += probabilities[token];
    }
    for probability in &mut probabilities {
        *probability /= sum;
    }
    probabilities
}

/// Pearson's statistic of `draws` draws against `probabilities`, and its degrees of freedom.
fn chi_square(sampling: Sampling, logits: &[f32], draws: u32) -> (f64, usize) {
    let probabilities = naive(sampling, logits);
    let mut counts = vec![0_u32; logits.len()];
    let mut sampler = Sampler::new(sampling);
    let mut scratch = SamplerScratch::default();
    for _ in 0..draws {
        counts[sampler.sample(logits, &mut scratch).unwrap() as usize] += 1;
    }
    let mut statistic = 0.0;
    let mut cells = 0;
    for (&count, &probability) in counts.iter().zip(&probabilities) {
        if probability == 0.0 {
            assert_eq!(count, 0, "a token was drawn that the filters exclude");
            continue;
        }
        let expected = probability * f64::from(draws);
        assert!(expected >= 5.0, "too few draws for the statistic: {expected}");
        statistic += (f64::from(count) - expected).powi(2) / expected;
        cells += 1;
    }
    (statistic, cells - 1)
}

#[test]
fn draws_follow_the_distribution_of_the_logits() {
    // 0.999 quantiles of chi-square with 1 to 11 degrees of freedom.
    let quantiles = [
        10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59, 31.26,
    ];
    let logits: Vec<f32> = (0..12_u8).map(|index| f32::from(index * 7 % 12) * 0.3).collect();
    for (temperature, top_k, top_p) in [
        (1.0, None, None),
        (0.6, None, None),
        (3.0, None, None),
        (1.0, Some(4), None),
        (1.0, None, Some(0.7)),
        (0.8, Some(6), Some(0.6)),
        (0.8, Some(3), Some(0.999)),
        (1.0, Some(12), Some(1.0)),
        (1.0, None, Some(0.0)),
    ] {
        let (statistic, freedom) = chi_square(sampling(temperature, top_k, top_p), &logits, 20_000);
        assert!(
            statistic < quantiles[freedom - 1],
            "temperature {temperature}, top_k {top_k:?}, top_p {top_p:?}: {statistic} with {freedom} degrees of freedom"
        );
    }
}

#[test]
fn the_first_of_equal_logits_is_taken_without_randomness() {
    let mut logits = vec![1.0; 100];
    (logits[20], logits[70], logits[99]) = (3.0, 3.0, 3.0);
    assert_eq!(draw(Sampling::GREEDY, &logits), Ok(20));
    assert_eq!(
        draw(sampling(0.0, None, None), &logits),
        Ok(20),
        "a temperature of 0 is greedy"
    );
    assert_eq!(draw(Sampling::GREEDY, &[-0.0, 0.0]), Ok(0), "the zeros are equal");
}

#[test]
fn what_is_no_number_is_never_chosen() {
    for length in [3, 16, 40] {
        let mut logits = vec![f32::NAN; length];
        let none = Err(SamplerError::NotNumbers { vocabulary: length });
        assert_eq!(draw(Sampling::GREEDY, &logits), none);
        assert_eq!(draw(sampling(1.0, Some(2), None), &logits), none);
        logits[length - 1] = f32::NEG_INFINITY;
        let expected = Ok(length as u32 - 1);
        assert_eq!(draw(Sampling::GREEDY, &logits), expected, "minus infinity is a number");
        assert_eq!(draw(sampling(1.0, None, None), &logits), expected);
        assert_eq!(draw(sampling(1.0, Some(2), Some(0.5)), &logits), expected);
    }
    assert_eq!(
        draw(Sampling::GREEDY, &[]),
        Err(SamplerError::NotNumbers { vocabulary: 0 })
    );
}

#[test]
fn an_infinite_logit_wins() {
    let logits = [0.0, f32::INFINITY, 1.0];
    assert_eq!(draw(Sampling::GREEDY, &logits), Ok(1));
    assert_eq!(draw(sampling(1.0, None, None), &logits), Ok(1));
    assert_eq!(
        draw(sampling(f64::INFINITY, Some(2), None), &[f32::NEG_INFINITY, 1.0]),
        Ok(1)
    );
}

#[test]
fn keeping_no_token_is_an_error() {
    assert_eq!(
        draw(sampling(1.0, Some(0), None), &[1.0, 2.0]),
        Err(SamplerError::NothingKept)
    );
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let logits: Vec<f32> = (0..50_u8).map(f32::from).map(f32::sin).collect();
    let tokens = |seed| {
        let mut sampler = Sampler::new(Sampling {
            seed,
            ..sampling(1.0, Some(40), Some(0.95))
        });
        let mut scratch = SamplerScratch::default();
        (0..20)
            .map(|_| sampler.sample(&logits, &mut scratch).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
}

#[test]
fn a_shared_scratch_carries_nothing_over() {
    let mut scratch = SamplerScratch::default();
    let mut sampler = Sampler::new(sampling(1.0, Some(3), Some(0.9)));
    let mut other = Sampler::new(sampling(1.0, None, Some(0.5)));
    let logits: Vec<f32> = (0..40_u8).map(|index| f32::from(index % 7)).collect();
    let fresh: Vec<u32> = {
        let mut sampler = sampler.clone();
        (0..10)
            .map(|_| sampler.sample(&logits, &mut SamplerScratch::default()).unwrap())
            .collect()
    };
    for expected in fresh {
        other.sample(&[5.0; 1000], &mut scratch).unwrap();
        assert_eq!(sampler.sample(&logits, &mut scratch), Ok(expected));
    }
}

proptest! {
    #[test]
    fn the_largest_logit_is_what_a_plain_search_finds(logits in prop::collection::vec(
        prop_oneof![8 => (-3_i8..3).prop_map(f32::from), 1 => Just(f32::NAN), 1 => Just(f32::NEG_INFINITY)], 0..70,
    )) {
        let mut expected: Option<usize> = None;
        for (index, logit) in logits.iter().enumerate() {
            if !logit.is_nan() && expected.is_none_or(|best| *logit > logits[best]) {
                expected = Some(index);
            }
        }
        prop_assert_eq!(largest(&logits).map(|(index, _)| index as usize), expected);
    }

    /// The kept set, over vocabularies that need several rounds of sorting.
    #[test]
    fn filters_keep_what_a_full_sort_keeps(
        seed in any::<u64>(), length in 1..6000_usize, spread in 0.0..6.0_f32,
        top_k in prop::option::of(1..3000_usize), top_p in prop::option::of(0.0..1.1_f64),
    ) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Values on a grid, so that there are ties.
        let logits: Vec<f32> = (0..length).map(|_| (random.random::<f32>() * 40.0).round() / 40.0 * spread).collect();
        let sampling = sampling(1.0, top_k, top_p);
        let mut scratch = SamplerScratch::default();
        let token = Sampler::new(sampling).sample(&logits, &mut scratch).unwrap();
        let probabilities = naive(sampling, &logits);
        prop_assert!(probabilities[token as usize] > 0.0);
        if top_k.is_some_and(|count| count < length) || top_p.is_some_and(|bound| bound > 0.0 && bound < 1.0) {
            let kept = probabilities.iter().filter(|probability| **probability > 0.0).count();
            // Single precision may put the bound one token further or nearer.
            prop_assert!(scratch.tokens.len().abs_diff(kept) <= 1, "{} kept instead of {kept}", scratch.tokens.len());
        }
    }
}
