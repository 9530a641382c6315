//! Power of a CPU from its load and its thermal design power. Pure.

/// TDP where the processor is unknown, W: `CodeCarbon`'s default.
pub(super) const DEFAULT_TDP_WATTS: f64 = 85.0;

/// Relative half-width of an estimate's error bar. TDP is a cooling figure, not a power; against RAPL such models are
/// off by tens of percent, so the bar is wide on purpose.
pub(super) const RELATIVE_UNCERTAINTY: f64 = 0.5;

/// Server processors that GPU nodes are built with, by a part of the model name: W per socket (vendor data sheets).
const TDP_WATTS: [(&str, f64); 14] = [
    ("EPYC 9654", 360.0),
    ("EPYC 9554", 360.0),
    ("EPYC 9534", 280.0),
    ("EPYC 9454", 290.0),
    ("EPYC 9354", 280.0),
    ("EPYC 7763", 280.0),
    ("EPYC 7742", 225.0),
    ("EPYC 7713", 225.0),
    ("Platinum 8592+", 350.0),
    ("Platinum 8480", 350.0),
    ("Platinum 8468", 350.0),
    ("Platinum 8462Y+", 300.0),
    ("Platinum 8380", 270.0),
    ("Platinum 8358", 250.0),
];

/// Thermal design power with where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ThermalDesignPower {
    /// Of the whole machine, W.
    pub(super) watts: f64,
    pub(super) source: String,
}

/// Given, else by model name times sockets, else the default.
pub(super) fn thermal_design_power(given: Option<f64>, model: Option<&str>, sockets: usize) -> ThermalDesignPower {
    if let Some(watts) = given {
        return ThermalDesignPower {
            watts,
            source: format!("{watts} W as configured"),
        };
    }
    let known = model.and_then(|model| TDP_WATTS.iter().find(|(part, _)| model.contains(part)));
    match known {
        Some((part, watts)) => ThermalDesignPower {
            watts: watts * sockets as f64,
            source: format!("{sockets} × {watts} W of {part}"),
        },
        None => ThermalDesignPower {
            watts: DEFAULT_TDP_WATTS,
            source: format!(
                "{DEFAULT_TDP_WATTS} W by default, processor {} not in the table",
                model.unwrap_or("unknown")
            ),
        },
    }
}

/// `TDP × (0.1 + 0.9 · load³)`, `CodeCarbon`'s machine mode, for a load of 0–1.
pub(super) fn watts(tdp_watts: f64, load: f64) -> f64 {
    tdp_watts * (0.1 + 0.9 * load.clamp(0.0, 1.0).powi(3))
}

/// Busy and total time of all CPUs since boot, in ticks, from the first line of `/proc/stat`. Guest time is part of user
/// time already; waiting for I/O is idle.
pub(super) fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    let total: u64 = ticks.iter().sum();
    Some((total.checked_sub(idle)?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_not_load() {
        assert_eq!(
            cpu_ticks("cpu  10 20 30 400 50 6 7 8 900 1000\ncpu0 1"),
            Some((81, 531))
        );
        assert_eq!(cpu_ticks("intr 1"), None);
    }

    #[test]
    fn power_goes_from_a_tenth_of_tdp_to_tdp() {
        assert!((watts(200.0, 0.0) - 20.0).abs() < 1e-9);
        assert!((watts(200.0, 0.5) - 42.5).abs() < 1e-9);
        assert!((watts(200.0, 1.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn the_source_of_the_design_power_is_named() {
        let two = thermal_design_power(None, Some("AMD EPYC 9654 96-Core Processor"), 2);
        assert!(
            (two.watts - 720.0).abs() < 1e-9 && two.source.contains("EPYC 9654"),
            "{two:?}"
        );
        assert!(
            thermal_design_power(None, Some("Toaster"), 1)
                .source
                .contains("Toaster")
        );
        assert!(
            thermal_design_power(Some(120.0), Some("EPYC 9654"), 1)
                .source
                .contains("configured")
        );
    }
}
