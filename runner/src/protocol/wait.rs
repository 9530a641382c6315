//! Waiting: to a wall-clock instant on the monotonic clock, and for a device to cool.

use std::{
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lem_crds::experiment::Cooldown;

use crate::energy::Meter;

/// How often a device's temperature is asked for while it cools.
const TEMPERATURE_INTERVAL: Duration = Duration::from_millis(500);

/// Sleeps until `at`. The wall clock is read once; the sleep runs on the monotonic clock, so a step of the wall clock
/// meanwhile moves no start.
pub(super) fn until(at: Timestamp) {
    let ahead = at.duration_since(Timestamp::now());
    if let Ok(ahead) = Duration::try_from(ahead) {
        thread::sleep(ahead);
    }
}

/// Pauses for the cool-down's duration, or until every GPU is at its temperature; gives the seconds taken.
pub(super) fn cool_down(cooldown: &Cooldown, meter: &mut dyn Meter) -> f64 {
    let begin = Instant::now();
    let longest = cooldown.duration.get();
    match cooldown.temperature_celsius {
        None => thread::sleep(longest),
        Some(target) => {
            while begin.elapsed() < longest {
                let rest = longest.saturating_sub(begin.elapsed());
                match hottest_gpu(meter, TEMPERATURE_INTERVAL.min(rest)) {
                    Some(temperature) if temperature > target => {}
                    Some(_) => break,
                    // No device reports a temperature: the fixed time is all there is.
                    None => thread::sleep(longest.saturating_sub(begin.elapsed())),
                }
            }
        }
    }
    begin.elapsed().as_secs_f64()
}

/// The temperature of the hottest GPU over a short while, in degrees Celsius.
fn hottest_gpu(meter: &mut dyn Meter, interval: Duration) -> Option<u32> {
    meter.start().ok()?;
    thread::sleep(interval);
    meter
        .stop()
        .devices
        .iter()
        .filter_map(|device| device.temperature_max_celsius)
        .max()
}
