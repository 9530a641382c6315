//! Cosines and sines of the rotary position embedding.

use crate::architecture::RopeScaling;

/// The angles of the first positions for one base.
#[derive(Debug)]
pub struct RopeTable {
    /// Radians per position of each pair of elements.
    frequencies: Vec<f64>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl RopeTable {
    /// Frequencies for heads of `dimension` elements, of no position yet; `factors` divides them where a file has factors
    /// of its own (`rope_freqs.weight`).
    pub(crate) fn new(dimension: usize, theta: f64, scaling: Option<&RopeScaling>, factors: Option<&[f32]>) -> Self {
        let frequencies = (0..dimension / 2).map(|index| {
            let frequency = theta.powf(-2.0 * index as f64 / dimension as f64);
            match factors {
                Some(factors) => frequency / f64::from(factors[index]),
                None => scaling.map_or(frequency, |scaling| scaled(frequency, scaling)),
            }
        });
        Self {
            frequencies: frequencies.collect(),
            cosines: Vec::new(),
            sines: Vec::new(),
        }
    }

    /// Cosines and sines of the positions covered so far, half as many for each as a head has elements.
    pub fn angles(&self) -> (&[f32], &[f32]) {
        (&self.cosines, &self.sines)
    }

    /// Computes the angles of so many positions, unless they are there: a model may allow far more of them than an
    /// experiment uses.
    pub fn cover(&mut self, positions: usize) {
        let half = self.frequencies.len();
        let (there, elements) = (self.cosines.len(), positions * half);
        if elements <= there {
            return;
        }
        let angle = |index: usize| (index / half) as f64 * self.frequencies[index % half];
        self.cosines.reserve_exact(elements - there);
        self.cosines
            .extend((there..elements).map(|index| angle(index).cos() as f32));
        self.sines.reserve_exact(elements - there);
        self.sines
            .extend((there..elements).map(|index| angle(index).sin() as f32));
    }

    /// Cosines and sines of a position.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let range = position * half..(position + 1) * half;
        (&self.cosines[range.clone()], &self.sines[range])
    }

    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> usize {
        8 * self.cosines.len()
    }
}

/// Llama 3.1's scaling: low frequencies are divided by the factor, high ones stay, those between are interpolated.
/// Source: `_compute_llama3_parameters` of transformers.
fn scaled(frequency: f64, scaling: &RopeScaling) -> f64 {
    let wavelength = std::f64::consts::TAU / frequency;
    let original = scaling.original_context_length as f64;
    if wavelength < original / scaling.high_frequency_factor {
        frequency
    } else if wavelength > original / scaling.low_frequency_factor {
        frequency / scaling.factor
    } else {
        let smooth = (original / wavelength - scaling.low_frequency_factor)
            / (scaling.high_frequency_factor - scaling.low_frequency_factor);
        (1.0 - smooth) * frequency / scaling.factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_position_is_not_rotated_and_the_first_pair_turns_by_one_radian_a_position() {
        let mut table = RopeTable::new(64, 1e4, None, None);
        table.cover(2);
        table.cover(10);
        assert_eq!(table.bytes(), 10 * 32 * 8);
        assert!(table.at(0).0.iter().all(|cosine| (cosine - 1.0).abs() < 1e-9));
        assert!((table.at(3).1[0] - 3_f32.sin()).abs() < 1e-7);
    }

    #[test]
    fn llama_3_scaling_leaves_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context_length: 8192,
        };
        assert!((scaled(1.0, &scaling) - 1.0).abs() < 1e-12);
        assert!((scaled(1e-5, &scaling) - 1.25e-6).abs() < 1e-12);
        let between = std::f64::consts::TAU / 4000.0;
        assert!(scaled(between, &scaling) < between && scaled(between, &scaling) > between / 8.0);
    }
}
