use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::testing::random_bytes;

/// Rows and columns; an interpreter takes minutes for larger ones.
const SHAPES: &[(usize, usize)] = if cfg!(miri) {
    &[(1, 256), (18, 256)]
} else {
    &[(1, 256), (16, 512), (37, 768)]
};

#[test]
fn a_packed_row_is_worth_what_the_stored_one_is() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for element_type in ElementType::ALL {
        for &(rows, columns) in SHAPES {
            let bytes = random_bytes(element_type, rows * columns, &mut random);
            let stored = StoredTensor {
                element_type,
                rows,
                columns,
                bytes: bytes.as_slice().into(),
            };
            let packed = PackedMatrix::from_tensor(&stored, 2);
            let (mut expected, mut found) = (vec![0.0; columns], vec![0.0; columns]);
            for row in 0..rows {
                stored.dequantise_row(row, &mut expected);
                packed.row(row, &mut found);
                assert_eq!(found, expected, "{} row {row} of {rows}", element_type.name());
            }
        }
    }
}

#[test]
fn packing_costs_no_more_than_the_padding_of_the_last_panel_and_the_wider_scales_of_q4_k() {
    let (rows, columns) = if cfg!(miri) { (32, 256) } else { (160, 512) };
    for element_type in ElementType::ALL {
        let bytes = vec![0; element_type.bytes(rows * columns)];
        let stored = StoredTensor {
            element_type,
            rows,
            columns,
            bytes: bytes.as_slice().into(),
        };
        let packed = PackedMatrix::from_tensor(&stored, 1).bytes().len();
        let limit = if element_type == ElementType::Q4K {
            bytes.len() * 1029 / 1000
        } else {
            bytes.len()
        };
        assert!(
            packed <= limit,
            "{}: {packed} bytes of {}",
            element_type.name(),
            bytes.len()
        );
    }
}

#[test]
fn odd_columns_of_floats_keep_their_values() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for element_type in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
        let bytes = random_bytes(element_type, 18 * 33, &mut random);
        let stored = StoredTensor {
            element_type,
            rows: 18,
            columns: 33,
            bytes: bytes.as_slice().into(),
        };
        let packed = PackedMatrix::from_tensor(&stored, 1);
        let (mut expected, mut found) = (vec![0.0; 33], vec![0.0; 33]);
        stored.dequantise_row(17, &mut expected);
        packed.row(17, &mut found);
        assert_eq!(found, expected);
    }
}
