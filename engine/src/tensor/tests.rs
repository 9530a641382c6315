use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

#[test]
fn blocks_are_worth_what_candle_says() {
    let device = Device::Cpu;
    let values: Vec<f32> = (0..1024_u32)
        .map(|index| ((index.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8) * 0.05)
        .collect();
    let tensor = Tensor::from_vec(values, (4, 256), &device).unwrap();
    for (element_type, dtype) in [
        (ElementType::F32, GgmlDType::F32),
        (ElementType::F16, GgmlDType::F16),
        (ElementType::Bf16, GgmlDType::BF16),
        (ElementType::Q4_0, GgmlDType::Q4_0),
        (ElementType::Q4_1, GgmlDType::Q4_1),
        (ElementType::Q8_0, GgmlDType::Q8_0),
        (ElementType::Q4K, GgmlDType::Q4K),
        (ElementType::Q6K, GgmlDType::Q6K),
    ] {
        let quantised = QTensor::quantize(&tensor, dtype).unwrap();
        let expected: Vec<Vec<f32>> = quantised.dequantize(&device).unwrap().to_vec2().unwrap();
        let bytes = quantised.data().unwrap();
        let stored = StoredTensor {
            element_type,
            rows: 4,
            columns: 256,
            bytes: std::borrow::Cow::Borrowed(&bytes),
        };
        for (row, expected) in expected.iter().enumerate() {
            let mut found = vec![0.0; 256];
            stored.dequantise_row(row, &mut found);
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-7,
                    "{}: {found} is not {expected}",
                    element_type.name()
                );
            }
        }
    }
}
