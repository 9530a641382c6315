//! How long to wait before asking the API server again: without end, and ever more slowly up to a cap. Pure.

use std::time::Duration;

/// Longest pause.
const CAP: Duration = Duration::from_secs(30);

/// Growing pauses; a success begins anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    next: Duration,
    /// Spreads the pods of a cohort over time, from 0 to 1.
    spread: f64,
}

impl Backoff {
    /// Pauses for this process; the name decides the spread, so that two pods do not ask in step.
    pub(super) fn new(name: &str) -> Self {
        let sum: u32 = name.bytes().map(u32::from).sum();
        Self {
            next: Duration::from_millis(250),
            spread: f64::from(sum % 64) / 64.0,
        }
    }

    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(CAP);
        pause.mul_f64(0.75 + 0.5 * self.spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_never_end() {
        let mut backoff = Backoff::new("cohort-0");
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(pauses[0] < Duration::from_millis(400) && pauses[19] <= CAP.mul_f64(1.25));
    }
}
