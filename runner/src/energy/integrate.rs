//! Power to energy: the trapezoid rule, interpolated to the edges of the window. Pure.

use super::reading::PowerSample;

/// Most points that a reported power series has.
pub const POWER_POINTS: usize = 60;

/// Power at an instant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Power {
    /// Seconds, any clock.
    pub at: f64,
    /// W.
    pub watts: f64,
}

/// Energy with a bound of its sampling error.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Integral {
    /// J.
    pub joules: f64,
    /// Sum over the segments of `|ΔP| · Δt / 2`: the trapezoid's error for any power that is monotone between samples.
    pub error_joules: f64,
    /// Its standard deviation, if each change of power was a jump somewhere between two samples: `√Σ(ΔP · Δt)² / √12`.
    pub deviation_joules: f64,
}

/// Trapezoid integral of `samples` (ascending in time) over `[from, to]`: linear between samples, held constant before
/// the first and after the last. None without samples.
pub fn trapezoid(samples: &[Power], from: f64, to: f64) -> Option<Integral> {
    let (first, last) = (samples.first()?, samples.last()?);
    let mut integral = Integral::default();
    if to <= from {
        return Some(integral);
    }
    integral.joules += first.watts * (first.at.min(to) - from).max(0.0);
    integral.joules += last.watts * (to - last.at.max(from)).max(0.0);
    let mut variance = 0.0;
    for pair in samples.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let (begin, end) = (a.at.max(from), b.at.min(to));
        if end <= begin || b.at <= a.at {
            continue;
        }
        let slope = (b.watts - a.watts) / (b.at - a.at);
        let middle = a.watts + slope * (f64::midpoint(begin, end) - a.at);
        integral.joules += middle * (end - begin);
        integral.error_joules += (b.watts - a.watts).abs() * (end - begin) / 2.0;
        variance += ((b.watts - a.watts) * (end - begin)).powi(2) / 12.0;
    }
    integral.deviation_joules = variance.sqrt();
    Some(integral)
}

/// The series of a window as offsets from its start, thinned to at most [`POWER_POINTS`] by averaging neighbours, so
/// that no burst is dropped.
pub fn thin(samples: &[Power], from: f64, to: f64) -> Vec<PowerSample> {
    let inside: Vec<_> = samples
        .iter()
        .filter(|sample| (from..=to).contains(&sample.at))
        .collect();
    inside
        .chunks(inside.len().div_ceil(POWER_POINTS).max(1))
        .map(|chunk| {
            let count = chunk.len() as f64;
            PowerSample {
                offset_seconds: chunk.iter().map(|sample| sample.at).sum::<f64>() / count - from,
                watts: chunk.iter().map(|sample| sample.watts).sum::<f64>() / count,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Vec<Power> {
        (0..=10)
            .map(|step| Power {
                at: f64::from(step),
                watts: 10.0 * f64::from(step),
            })
            .collect()
    }

    #[test]
    fn a_ramp_is_integrated_exactly_between_samples() {
        let integral = trapezoid(&ramp(), 1.5, 7.25).unwrap();
        let truth = 5.0 * (7.25_f64.powi(2) - 1.5_f64.powi(2));
        assert!((integral.joules - truth).abs() < 1e-9, "{integral:?} {truth}");
    }

    #[test]
    fn the_window_beyond_the_samples_is_not_lost() {
        let samples = [Power { at: 1.0, watts: 50.0 }, Power { at: 2.0, watts: 50.0 }];
        assert!((trapezoid(&samples, 0.0, 4.0).unwrap().joules - 200.0).abs() < 1e-9);
    }

    #[test]
    fn no_samples_are_no_energy_instead_of_zero() {
        assert_eq!(trapezoid(&[], 0.0, 1.0), None);
    }

    #[test]
    fn a_long_series_is_thinned_without_losing_its_mean() {
        let samples: Vec<_> = (0..1000)
            .map(|i| Power {
                at: f64::from(i),
                watts: f64::from(i % 2) * 100.0,
            })
            .collect();
        let thinned = thin(&samples, 0.0, 1000.0);
        assert!(thinned.len() <= POWER_POINTS);
        assert!(
            thinned.iter().all(|sample| (sample.watts - 50.0).abs() < 5.0),
            "{thinned:?}"
        );
    }
}
