//! Each kernel, emulated, against the same in double precision.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::emulator::Emulator;

const SHAPE: Specialisation = Specialisation { head: 64, group: 2 };

fn address<T>(values: &[T]) -> Address {
    values.as_ptr() as Address
}

fn random_floats(random: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-2.0..2.0)).collect()
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6_f64, |most, value| most.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let found = f64::from(*found);
        assert!(
            (found - expected).abs() <= tolerance * scale,
            "element {index}: {found}, not {expected}"
        );
    }
}

/// `values / sqrt(mean(values²) + epsilon) * scale`.
fn normalised(values: &[f64], scale: &[f32], epsilon: f64) -> Vec<f64> {
    let mean = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
    let factor = 1.0 / (mean + epsilon).sqrt();
    values
        .iter()
        .zip(scale)
        .map(|(value, scale)| value * factor * f64::from(*scale))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_norm_adds_the_branch_with_its_bias_and_norm_and_reads_only_gathered_rows(
        hidden in 1_usize..700, rows in 1_usize..6, branch: bool, bias: bool, post: bool, gather: bool, seed: u64,
    ) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut residual = random_floats(&mut random, rows * hidden);
        let before = residual.clone();
        let (addend, branch_bias) = (random_floats(&mut random, rows * hidden), random_floats(&mut random, hidden));
        let (branch_norm, norm) = (random_floats(&mut random, hidden), random_floats(&mut random, hidden));
        let picked: Vec<u32> = (0..rows as u32).rev().collect();
        let mut output = vec![f32::NAN; rows * hidden];
        let mut brains = vec![0_u16; rows * hidden];
        let on = |wanted: bool, address: Address| if wanted { address } else { 0 };
        let arguments = AddAndNormalise {
            residual: residual.as_mut_ptr() as Address,
            branch: on(branch, address(&addend)),
            branch_bias: on(bias, address(&branch_bias)),
            branch_norm: on(post, address(&branch_norm)),
            norm: address(&norm),
            gather: on(gather, address(&picked)),
            output: ActivationAddresses {
                single: output.as_mut_ptr() as Address,
                half: 0,
                brain: brains.as_mut_ptr() as Address,
            },
            hidden: hidden as u32,
            epsilon: 1e-5,
        };
        Emulator::of(SHAPE).launch([rows as u32, 1, 1], 0, &arguments);
        for row in 0..rows {
            let from = if gather { picked[row] as usize } else { row } * hidden;
            let mut sum: Vec<f64> = before[from..from + hidden].iter().map(|value| f64::from(*value)).collect();
            if branch {
                let mut added: Vec<f64> = (0..hidden)
                    .map(|at| f64::from(addend[from + at]) + if bias { f64::from(branch_bias[at]) } else { 0.0 })
                    .collect();
                if post {
                    added = normalised(&added, &branch_norm, 1e-5);
                }
                sum.iter_mut().zip(&added).for_each(|(sum, added)| *sum += added);
            }
            let expected = normalised(&sum, &norm, 1e-5);
            assert_close(&output[row * hidden..][..hidden], &expected, 2e-6);
            let rounded: Vec<u16> =
                output[row * hidden..][..hidden].iter().map(|value| half::bf16::from_f32(*value).to_bits()).collect();
            prop_assert_eq!(&brains[row * hidden..][..hidden], &rounded[..]);
            if gather {
                prop_assert_eq!(&residual[from..from + hidden], &before[from..from + hidden]);
            } else {
                assert_close(&residual[from..from + hidden], &sum, 2e-6);
            }
        }
    }
}
