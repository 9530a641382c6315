use super::*;
use crate::kernels::InstructionSet;

#[test]
fn every_row_is_in_the_tile_that_the_products_read_it_from() {
    for largest in [4, 8] {
        for rows in 1..40 {
            let mut covered = 0;
            for tile in tiles(rows, largest) {
                assert_eq!(tile.first, covered, "{rows} rows");
                for row in tile.first..tile.first + tile.rows {
                    assert_eq!(tile_of(row, rows, largest), tile, "row {row} of {rows}");
                }
                covered += tile.rows;
            }
            assert_eq!(covered, rows);
        }
    }
}

fn quantised(values: &[f32], set: InstructionSet) -> (Vec<i8>, Vec<f32>, Vec<i32>) {
    let mut activations = Activations::new(1, values.len(), Kinds::of([ElementType::Q8_0]), set.tile());
    let writer = activations.writer(1, values.len(), Kinds::of([ElementType::Q8_0]));
    // SAFETY: one thread.
    unsafe { write_row(set, &writer, 0, values.as_ptr(), values.len()) };
    (activations.quants, activations.scales, activations.sums)
}

#[test]
fn integers_are_within_half_a_step_and_their_sums_are_exact_on_every_instruction_set() {
    let values: Vec<f32> = (0..96)
        .map(|index| ((index * 37 % 101) as f32 - 50.0) * 0.013)
        .collect();
    let expected = quantised(&values, InstructionSet::Scalar);
    for set in InstructionSet::available() {
        let (quants, scales, sums) = quantised(&values, *set);
        assert_eq!((&quants, &sums), (&expected.0, &expected.2), "{}", set.name());
        for (index, value) in values.iter().enumerate() {
            let scale = scales[index / BLOCK];
            assert!((f32::from(quants[index]) * scale - value).abs() <= scale * 0.5001);
        }
        for (half, sum) in quants.chunks(16).zip(sums) {
            assert_eq!(half.iter().map(|quant| i32::from(*quant)).sum::<i32>(), sum);
        }
    }
}

#[test]
fn what_is_not_a_number_is_not_lost_in_the_integers() {
    for set in InstructionSet::available() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 15, 16, 31] {
                let mut values = vec![0.5; 64];
                values[place] = poison;
                let scales = quantised(&values, *set).1;
                assert!(!scales[0].is_finite(), "{}: {poison} at {place}", set.name());
                assert!(scales[1].is_finite());
            }
        }
        let zeros = quantised(&[0.0; 32], *set);
        assert!(zeros.1[0].abs() < 1e-30 && zeros.0.iter().all(|quant| *quant == 0));
    }
}

#[test]
fn brain_floats_round_as_the_half_crate_does() {
    for value in [
        0.0,
        1.0,
        -1.5,
        2.641_6,
        1e-40,
        f32::MAX,
        f32::INFINITY,
        1.003_906_3,
        1.011_718_8,
    ] {
        assert_eq!(
            brain_float(value),
            u32::from(half::bf16::from_f32(value).to_bits()),
            "{value}"
        );
    }
    assert!(half::bf16::from_bits(brain_float(f32::NAN) as u16).is_nan());
}
