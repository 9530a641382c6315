//! Latency samples as they travel: exact while they fit, a histogram beyond, and the record says which.
//!
//! Exact samples are microseconds, written as deflated LEB128 varints. Beyond [`MAXIMUM_ENCODED`] bytes they become an
//! HDR histogram of three significant digits (V2, deflated), whose quantiles are within 0.1 %. Count and sum stay exact.

use std::io::{Read, Write};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest encoded form of one series in bytes, so that a window stays under 8 KiB.
pub const MAXIMUM_ENCODED: usize = 2048;
/// Most samples that are unpacked, against a hostile record.
const MAXIMUM_SAMPLES: usize = 4_000_000;

/// How [`Samples::data`] is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// Every sample, in microseconds.
    #[default]
    Exact,
    /// A histogram of three significant digits.
    Histogram,
}

/// One series of durations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Samples {
    /// How `data` is written.
    pub encoding: Encoding,
    /// Samples in the series.
    pub count: u64,
    /// Exact sum of the samples in seconds.
    pub sum_seconds: f64,
    /// Base64 of the encoded samples; empty without samples.
    pub data: String,
}

/// Why a series could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum SamplesError {
    /// Not base64.
    #[error("latency samples are not base64")]
    Base64(#[source] base64::DecodeError),
    /// Not deflated varints.
    #[error("latency samples are damaged")]
    Deflate(#[source] std::io::Error),
    /// Not a histogram.
    #[error("latency histogram is damaged: {0}")]
    Histogram(String),
    /// The stated count and the content differ.
    #[error("latency samples state {stated} values and hold {found}")]
    Count {
        /// Stated in the record.
        stated: u64,
        /// Found in the data.
        found: u64,
    },
}

/// A series unpacked: what percentiles are computed from.
#[derive(Debug, Clone)]
pub enum Unpacked {
    /// Seconds, in the order of measurement.
    Exact(Vec<f64>),
    /// Microseconds.
    Histogram(Box<Histogram<u64>>),
}

impl Samples {
    /// Packs durations given in seconds.
    ///
    /// # Errors
    /// Only where memory writers fail.
    pub fn pack(seconds: &[f64]) -> Result<Self, SamplesError> {
        let sum_seconds = seconds.iter().sum();
        let microseconds: Vec<u64> = seconds.iter().map(|s| (s * 1e6).round().max(0.0) as u64).collect();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        for &value in &microseconds {
            write_varint(&mut encoder, value).map_err(SamplesError::Deflate)?;
        }
        let exact = encoder.finish().map_err(SamplesError::Deflate)?;
        let (encoding, bytes) = if exact.len() <= MAXIMUM_ENCODED {
            (Encoding::Exact, exact)
        } else {
            (Encoding::Histogram, histogram_bytes(&microseconds)?)
        };
        let data = if seconds.is_empty() {
            String::new()
        } else {
            STANDARD.encode(bytes)
        };
        Ok(Self {
            encoding,
            count: seconds.len() as u64,
            sum_seconds,
            data,
        })
    }

    /// Unpacks the series.
    ///
    /// # Errors
    /// Damaged data, or a count that differs from the content.
    pub fn unpack(&self) -> Result<Unpacked, SamplesError> {
        if self.count == 0 && self.data.is_empty() {
            return Ok(Unpacked::Exact(Vec::new()));
        }
        let bytes = STANDARD.decode(&self.data).map_err(SamplesError::Base64)?;
        let (unpacked, found) = match self.encoding {
            Encoding::Exact => {
                let mut plain = Vec::new();
                DeflateDecoder::new(bytes.as_slice())
                    .take(MAXIMUM_SAMPLES as u64 * 10)
                    .read_to_end(&mut plain)
                    .map_err(SamplesError::Deflate)?;
                let values = read_varints(&plain);
                let found = values.len() as u64;
                (Unpacked::Exact(values), found)
            }
            Encoding::Histogram => {
                let histogram: Histogram<u64> = Deserializer::new()
                    .deserialize(&mut bytes.as_slice())
                    .map_err(|error| SamplesError::Histogram(error.to_string()))?;
                let found = histogram.len();
                (Unpacked::Histogram(Box::new(histogram)), found)
            }
        };
        if found == self.count {
            Ok(unpacked)
        } else {
            Err(SamplesError::Count {
                stated: self.count,
                found,
            })
        }
    }
}

fn histogram_bytes(microseconds: &[u64]) -> Result<Vec<u8>, SamplesError> {
    let failed = |error: &dyn std::fmt::Display| SamplesError::Histogram(error.to_string());
    let mut histogram = Histogram::<u64>::new(3).map_err(|e| failed(&e))?;
    for &value in microseconds {
        histogram.record(value).map_err(|e| failed(&e))?;
    }
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(&histogram, &mut bytes)
        .map_err(|e| failed(&e))?;
    Ok(bytes)
}

fn write_varint(writer: &mut impl Write, mut value: u64) -> std::io::Result<()> {
    while value >= 0x80 {
        writer.write_all(&[(value as u8 & 0x7f) | 0x80])?;
        value >>= 7;
    }
    writer.write_all(&[value as u8])
}

fn read_varints(bytes: &[u8]) -> Vec<f64> {
    let mut values = Vec::new();
    let (mut value, mut shift) = (0_u64, 0_u32);
    for byte in bytes {
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            values.push(value as f64 / 1e6);
            (value, shift) = (0, 0);
        } else {
            shift += 7;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn few_samples_come_back_to_the_microsecond(values in proptest::collection::vec(0.0_f64..1000.0, 0..200)) {
            let packed = Samples::pack(&values).unwrap();
            let Unpacked::Exact(back) = packed.unpack().unwrap() else { panic!("few samples became a histogram") };
            for (a, b) in values.iter().zip(back) {
                proptest::prop_assert!((a - b).abs() <= 0.51e-6);
            }
        }

        #[test]
        fn hostile_data_is_an_error_and_no_panic(data in "[A-Za-z0-9+/]{0,200}", count in 0_u64..10, histogram: bool) {
            let encoding = if histogram { Encoding::Histogram } else { Encoding::Exact };
            let _ = Samples { encoding, count, sum_seconds: 0.0, data }.unpack();
        }
    }

    #[test]
    fn many_samples_become_a_histogram_within_a_thousandth() {
        let values: Vec<f64> = (0..50_000)
            .map(|i| 0.01 + f64::from(i * 7919 % 50_000) * 1e-6)
            .collect();
        let packed = Samples::pack(&values).unwrap();
        assert_eq!(packed.encoding, Encoding::Histogram);
        let Unpacked::Histogram(histogram) = packed.unpack().unwrap() else {
            panic!("exact")
        };
        let median = histogram.value_at_quantile(0.5) as f64 / 1e6;
        assert!((median / 0.035 - 1.0).abs() < 2e-3, "{median}");
    }
}
