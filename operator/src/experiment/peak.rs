//! Peak dense throughput of a few GPUs and peak memory bandwidth for `mfu` and `mbu` (METHODOLOGY §8). Pure.

use lem_crds::runner::ComputePrecision;

const TERA: f64 = 1e12;

/// Dense peaks of one product in TFLOP/s (TOP/s for int8); `None` where the product has no such unit.
struct Peak {
    /// How NVML names the products, and their memory bandwidth in GB/s.
    products: &'static [(&'static str, f64)],
    fp32: f64,
    tf32: Option<f64>,
    half: f64,
    fp8: Option<f64>,
    int8: Option<f64>,
}

/// Source: NVIDIA's datasheets of each product; where they print the figure with sparsity, half of it.
const PEAKS: &[Peak] = &[
    Peak {
        products: &[("NVIDIA H100 80GB HBM3", 3352.0), ("NVIDIA H200", 4800.0)], // H100 SXM and H200 SXM: equal compute
        fp32: 67.0,
        tf32: Some(494.7),
        half: 989.4,
        fp8: Some(1978.9),
        int8: Some(1978.9),
    },
    Peak {
        products: &[("NVIDIA H100 PCIe", 2039.0)],
        fp32: 51.0,
        tf32: Some(378.0),
        half: 756.0,
        fp8: Some(1513.0),
        int8: Some(1513.0),
    },
    Peak {
        products: &[
            ("NVIDIA A100-SXM4-40GB", 1555.0),
            ("NVIDIA A100-SXM4-80GB", 2039.0),
            ("NVIDIA A100-PCIE-40GB", 1555.0),
            ("NVIDIA A100 80GB PCIe", 1935.0),
        ],
        fp32: 19.5,
        tf32: Some(156.0),
        half: 312.0,
        fp8: None,
        int8: Some(624.0),
    },
    Peak {
        products: &[("NVIDIA L40S", 864.0)],
        fp32: 91.6,
        tf32: Some(183.0),
        half: 362.0,
        fp8: Some(733.0),
        int8: Some(733.0),
    },
    Peak {
        products: &[("NVIDIA L4", 300.0)],
        fp32: 30.3,
        tf32: Some(60.0),
        half: 121.0,
        fp8: Some(242.0),
        int8: Some(242.0),
    },
];

fn find(product: &str) -> Option<(&'static Peak, f64)> {
    PEAKS.iter().find_map(|peak| {
        let (_, bandwidth) = peak.products.iter().find(|(name, _)| *name == product)?;
        Some((peak, *bandwidth))
    })
}

/// Peak memory bandwidth of a product in bytes/s, if known.
pub(super) fn peak_bandwidth(product: &str) -> Option<f64> {
    find(product).map(|(_, gigabytes)| gigabytes * 1e9)
}

/// Peak FLOP/s of a product at a precision, if known.
pub(super) fn peak_flops(product: &str, precision: ComputePrecision) -> Option<f64> {
    let (peak, _) = find(product)?;
    let tera = match precision {
        ComputePrecision::Fp32 => Some(peak.fp32),
        ComputePrecision::Tf32 => peak.tf32,
        ComputePrecision::Fp16 | ComputePrecision::Bf16 => Some(peak.half),
        ComputePrecision::Fp8 => peak.fp8,
        ComputePrecision::Int8 => peak.int8,
        ComputePrecision::Int4 => None,
    };
    tera.map(|tera| tera * TERA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_sibling_does_not_take_the_peak_of_the_larger() {
        assert_eq!(peak_flops("NVIDIA L4", ComputePrecision::Bf16), Some(121.0 * TERA));
        assert_eq!(peak_flops("NVIDIA L40S", ComputePrecision::Bf16), Some(362.0 * TERA));
        assert_eq!(peak_flops("NVIDIA L40", ComputePrecision::Bf16), None);
        assert_eq!(peak_flops("NVIDIA A100-SXM4-80GB", ComputePrecision::Fp8), None);
        assert_eq!(peak_bandwidth("NVIDIA H200"), Some(4.8e12));
        assert_eq!(peak_bandwidth("NVIDIA L40"), None);
    }
}
