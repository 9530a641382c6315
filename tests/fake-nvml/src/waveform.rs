//! Ground truth: power as a function of `CLOCK_MONOTONIC` and its exact integral, the same for every process.

use serde::{Deserialize, Serialize};

/// Slots after which a bursty waveform repeats; bounds the work of one integral.
const BURST_SLOTS: u64 = 512;

/// Power of a board over time, W.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum Waveform {
    /// The same power always.
    Constant {
        /// W.
        watts: f64,
    },
    /// `high` for the first `duty` of each period, else `low`.
    Square {
        /// W.
        low: f64,
        /// W.
        high: f64,
        /// ms.
        period_milliseconds: f64,
        /// 0–1.
        duty: f64,
    },
    /// From `from` to `to` in `seconds`, then again from the beginning.
    Ramp {
        /// W.
        from: f64,
        /// W.
        to: f64,
        /// s.
        seconds: f64,
    },
    /// Slots of equal length, each at its own random power between `low` and `high`.
    Bursty {
        /// Fixes all powers.
        seed: u64,
        /// W.
        low: f64,
        /// W.
        high: f64,
        /// ms.
        slot_milliseconds: f64,
    },
}

impl Waveform {
    /// Power at an instant, W.
    pub fn watts(&self, at: f64) -> f64 {
        match *self {
            Self::Constant { watts } => watts,
            Self::Square {
                low,
                high,
                period_milliseconds,
                duty,
            } => {
                let phase = (at / (period_milliseconds / 1e3)).fract();
                if phase < duty { high } else { low }
            }
            Self::Ramp { from, to, seconds } => from + (to - from) * (at / seconds).fract(),
            Self::Bursty {
                seed,
                low,
                high,
                slot_milliseconds,
            } => {
                let slot = (at / (slot_milliseconds / 1e3)).floor() as u64 % BURST_SLOTS;
                low + (high - low) * fraction(seed, slot)
            }
        }
    }

    /// Energy from the clock's zero to an instant, J.
    pub fn joules(&self, at: f64) -> f64 {
        match *self {
            Self::Constant { watts } => watts * at,
            Self::Square {
                low,
                high,
                period_milliseconds,
                duty,
            } => {
                let period = period_milliseconds / 1e3;
                let (whole, inside) = ((at / period).floor(), (at / period).fract() * period);
                let high_time = whole * duty * period + inside.min(duty * period);
                low * at + (high - low) * high_time
            }
            Self::Ramp { from, to, seconds } => {
                let (whole, inside) = ((at / seconds).floor(), (at / seconds).fract() * seconds);
                let slope = (to - from) / seconds;
                whole * seconds * f64::midpoint(from, to) + inside * (from + slope * inside / 2.0)
            }
            Self::Bursty {
                seed,
                low,
                high,
                slot_milliseconds,
            } => {
                let slot_seconds = slot_milliseconds / 1e3;
                let slots = at / slot_seconds;
                let (whole, inside) = (slots.floor() as u64, slots.fract());
                let sum = |count: u64| (0..count).map(|slot| fraction(seed, slot)).sum::<f64>();
                let units = (whole / BURST_SLOTS) as f64 * sum(BURST_SLOTS)
                    + sum(whole % BURST_SLOTS)
                    + inside * fraction(seed, whole % BURST_SLOTS);
                low * at + (high - low) * units * slot_seconds
            }
        }
    }

    /// Energy between two instants, J.
    pub fn joules_between(&self, from: f64, to: f64) -> f64 {
        self.joules(to) - self.joules(from)
    }
}

/// A fixed pseudo-random number in 0–1 (splitmix64).
pub(crate) fn fraction(seed: u64, slot: u64) -> f64 {
    let mut bits = seed.wrapping_add(slot.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integral_is_that_of_the_power() {
        let waveforms = [
            Waveform::Constant { watts: 300.0 },
            Waveform::Square {
                low: 100.0,
                high: 700.0,
                period_milliseconds: 90.0,
                duty: 0.3,
            },
            Waveform::Ramp {
                from: 100.0,
                to: 600.0,
                seconds: 0.7,
            },
            Waveform::Bursty {
                seed: 7,
                low: 80.0,
                high: 700.0,
                slot_milliseconds: 7.0,
            },
        ];
        for waveform in waveforms {
            let (from, to, steps) = (1234.567, 1242.1, 2_000_000);
            let width = (to - from) / f64::from(steps);
            let sum: f64 = (0..steps)
                .map(|i| waveform.watts(from + (f64::from(i) + 0.5) * width) * width)
                .sum();
            let exact = waveform.joules_between(from, to);
            assert!((sum - exact).abs() / exact < 1e-5, "{waveform:?}: {sum} {exact}");
        }
    }
}
