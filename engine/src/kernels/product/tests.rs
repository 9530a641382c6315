use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::kernels::InstructionSet;
use crate::kernels::activations::{Kinds, write_row};
use crate::tensor::StoredTensor;
use crate::testing::random_bytes;

fn activations(rows: &[Vec<f32>], element_type: ElementType, set: InstructionSet) -> Activations {
    let (columns, kinds) = (rows[0].len(), Kinds::of([element_type]));
    let mut activations = Activations::new(rows.len(), columns, kinds, set.tile());
    let writer = activations.writer(rows.len(), columns, kinds);
    for (row, values) in rows.iter().enumerate() {
        let mut padded = values.clone();
        padded.resize(columns.next_multiple_of(32), 0.0);
        // SAFETY: one thread.
        unsafe { write_row(set, &writer, row, padded.as_ptr(), columns) };
    }
    activations
}

fn product(matrix: &PackedMatrix, rows: &[Vec<f32>], set: InstructionSet, bias: &[f32]) -> Vec<Vec<f32>> {
    let activations = activations(rows, matrix.element_type, set);
    let stride = matrix.panels() * PANEL;
    let mut values = vec![0.0; rows.len() * stride];
    let output = Output {
        values: Shared::new(&mut values),
        stride,
        offset: 0,
        accumulate: false,
    };
    // SAFETY: one thread, and the activations are those of the matrix.
    unsafe { multiply(set, matrix, &activations, 0..matrix.panels(), bias, output) };
    values.chunks(stride).map(|row| row[..matrix.rows].to_vec()).collect()
}

/// Stored weights and rows of activations of any magnitude.
fn case(element_type: ElementType, seed: u64, [rows, columns, batch]: [usize; 3]) -> (Vec<u8>, Vec<Vec<f32>>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let bytes = random_bytes(element_type, rows * columns, &mut random);
    let inputs = (0..batch)
        .map(|_| {
            let magnitude = 10_f32.powi(random.random_range(-3..3));
            (0..columns)
                .map(|_| random.random_range(-magnitude..magnitude))
                .collect()
        })
        .collect();
    (bytes, inputs)
}

/// What the products should be, in double precision, from the activations as they were rounded.
fn reference(stored: &StoredTensor<'_>, inputs: &[Vec<f32>]) -> Vec<Vec<(f64, f64)>> {
    let mut weights = vec![0.0; stored.columns];
    let rounded: Vec<Vec<f32>> = inputs.iter().map(|input| round(input, stored.element_type)).collect();
    let mut results = vec![Vec::new(); inputs.len()];
    for row in 0..stored.rows {
        stored.dequantise_row(row, &mut weights);
        for (result, input) in results.iter_mut().zip(&rounded) {
            let terms = weights.iter().zip(input).map(|(a, b)| f64::from(*a) * f64::from(*b));
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            result.push((sum, magnitude));
        }
    }
    results
}

fn round(input: &[f32], weights: ElementType) -> Vec<f32> {
    match weights {
        ElementType::F32 | ElementType::F16 => input.to_vec(),
        ElementType::Bf16 => input
            .iter()
            .map(|value| half::bf16::from_f32(*value).to_f32())
            .collect(),
        _ => input
            .chunks(32)
            .flat_map(|block| {
                let largest = block.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
                let scale = largest / 127.0;
                block.iter().map(move |value| {
                    if largest > 0.0 {
                        (value * (127.0 / largest)).round_ties_even() * scale
                    } else {
                        0.0
                    }
                })
            })
            .collect(),
    }
}

/// Rows of a matrix and of a batch, below which they are; an interpreter takes minutes for more.
const ROWS: usize = if cfg!(miri) { 20 } else { 70 };
const BATCH: usize = if cfg!(miri) { 4 } else { 20 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 24 }))]

    #[test]
    fn a_product_is_that_of_the_dequantised_weights_and_the_same_on_every_instruction_set(
        seed in any::<u64>(),
        rows in 1..ROWS,
        blocks in 1_usize..4,
        batch in 1..BATCH,
    ) {
        for element_type in ElementType::ALL {
            let columns = blocks * element_type.block_elements().max(32);
            let (bytes, inputs) = case(element_type, seed, [rows, columns, batch]);
            let stored = StoredTensor { element_type, rows, columns, bytes: bytes.as_slice().into() };
            let matrix = PackedMatrix::from_tensor(&stored, 1);
            let expected = reference(&stored, &inputs);
            let scalar = product(&matrix, &inputs, InstructionSet::Scalar, &[]);
            for set in InstructionSet::available() {
                let found = product(&matrix, &inputs, *set, &[]);
                for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                    // The additions are of floats; the products of integers are exact.
                    let limit = 2e-6 * expected.1 + 1e-30;
                    prop_assert!(
                        (f64::from(*found) - expected.0).abs() <= limit,
                        "{} {}: {found} is not {}", element_type.name(), set.name(), expected.0
                    );
                }
                if element_type != ElementType::Bf16 {
                    prop_assert_eq!(&found, &scalar, "{} {}", element_type.name(), set.name());
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_products_alone_and_in_a_batch(seed in any::<u64>(), batch in 2..BATCH) {
        for element_type in ElementType::ALL {
            let (bytes, inputs) = case(element_type, seed, [ROWS, 256, batch]);
            let stored = StoredTensor { element_type, rows: ROWS, columns: 256, bytes: bytes.as_slice().into() };
            let matrix = PackedMatrix::from_tensor(&stored, 1);
            for set in InstructionSet::available() {
                let together = product(&matrix, &inputs, *set, &[]);
                for (row, together) in together.iter().enumerate() {
                    let alone = product(&matrix, &inputs[row..=row], *set, &[]);
                    prop_assert_eq!(&alone[0], together, "{} {} row {}", element_type.name(), set.name(), row);
                }
            }
        }
    }
}

#[test]
fn odd_columns_of_floats_are_all_multiplied() {
    for element_type in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
        let (bytes, inputs) = case(element_type, 3, [17, 31, 5]);
        let stored = StoredTensor {
            element_type,
            rows: 17,
            columns: 31,
            bytes: bytes.as_slice().into(),
        };
        let matrix = PackedMatrix::from_tensor(&stored, 1);
        for set in InstructionSet::available() {
            let found = product(&matrix, &inputs, *set, &[]);
            for (found, expected) in found.iter().flatten().zip(reference(&stored, &inputs).iter().flatten()) {
                assert!(
                    (f64::from(*found) - expected.0).abs() <= 2e-6 * expected.1,
                    "{}",
                    set.name()
                );
            }
        }
    }
}

#[test]
fn a_bias_is_added_and_accumulation_keeps_what_was_there() {
    let (bytes, inputs) = case(ElementType::Q8_0, 4, [20, 64, 3]);
    let stored = StoredTensor {
        element_type: ElementType::Q8_0,
        rows: 20,
        columns: 64,
        bytes: bytes.as_slice().into(),
    };
    let matrix = PackedMatrix::from_tensor(&stored, 1);
    let mut bias = vec![0.0; 32];
    bias[..20].fill(2.5);
    for set in InstructionSet::available() {
        let plain = product(&matrix, &inputs, *set, &[]);
        let biased = product(&matrix, &inputs, *set, &bias);
        for (plain, biased) in plain.iter().flatten().zip(biased.iter().flatten()) {
            assert!((plain + 2.5 - biased).abs() < 1e-6);
        }
        let mut values = vec![7.0; 3 * 32];
        let output = Output {
            values: Shared::new(&mut values),
            stride: 32,
            offset: 0,
            accumulate: true,
        };
        let activations = activations(&inputs, ElementType::Q8_0, *set);
        // SAFETY: one thread, and the activations are those of the matrix.
        unsafe { multiply(*set, &matrix, &activations, 0..2, &[], output) };
        assert!((values[0] - plain[0][0] - 7.0).abs() < 1e-5);
    }
}

#[test]
fn a_gated_product_is_the_gate_of_one_times_the_other() {
    for (gate, function) in [
        (Gate::Silu, (|x: f64| x / (1.0 + (-x).exp())) as fn(f64) -> f64),
        (Gate::Gelu, |x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }),
    ] {
        let matrices: Vec<PackedMatrix> = [5, 6]
            .into_iter()
            .map(|seed| {
                let (bytes, _) = case(ElementType::F32, seed, [48, 64, 1]);
                let stored = StoredTensor {
                    element_type: ElementType::F32,
                    rows: 48,
                    columns: 64,
                    bytes: bytes.as_slice().into(),
                };
                PackedMatrix::from_tensor(&stored, 1)
            })
            .collect();
        let inputs: Vec<Vec<f32>> = (0..11).map(|row| vec![0.1 * row as f32; 64]).collect();
        for set in InstructionSet::available() {
            let kinds = Kinds::of([ElementType::F32]);
            let mut gated = Activations::new(11, 48, kinds, set.tile());
            let writer = gated.writer(11, 48, kinds);
            let activations = activations(&inputs, ElementType::F32, *set);
            // SAFETY: one thread, and the activations are those of the matrices.
            unsafe { multiply_gated(*set, [&matrices[0], &matrices[1]], &activations, 0..3, gate, &writer) };
            let first = product(&matrices[0], &inputs, *set, &[]);
            let second = product(&matrices[1], &inputs, *set, &[]);
            for tile in tiles(11, set.tile()) {
                for row in 0..tile.rows {
                    for column in 0..48 {
                        let found = gated.floats[tile.first * 48 + column * tile.rows + row];
                        let of = |products: &[Vec<f32>]| f64::from(products[tile.first + row][column]);
                        let expected = function(of(&first)) * of(&second);
                        assert!(
                            (f64::from(found) - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                            "{gate:?}"
                        );
                    }
                }
            }
        }
    }
}
