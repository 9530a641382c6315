//! Who scrapes, and how often: by that a process knows whether its last figures were seen.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::LONGEST_LINGER;

/// Scrapes after the last window: the second one is there in case the first fell into the last baseline of it.
const WANTED: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Scrapes {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    count: u32,
    last: Option<Instant>,
    interval: Option<Duration>,
}

impl Scrapes {
    /// One was answered.
    pub(super) fn answered(&self, at: Instant) {
        let mut seen = self.lock();
        seen.interval = seen.last.map(|last| at.saturating_duration_since(last));
        seen.last = Some(at);
        seen.count += 1;
        drop(seen);
        self.changed.notify_all();
    }

    /// Waits for two more, if there have been any.
    pub(super) fn linger(&self, since: Instant) {
        let seen = self.lock();
        let (before, longest) = (seen.count, longest(*seen, since));
        let unseen = |seen: &mut Seen| seen.count - before < WANTED;
        drop(self.changed.wait_timeout_while(seen, longest, unseen));
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long two more may take. A scraper that has been silent for twice its interval is gone.
fn longest(seen: Seen, now: Instant) -> Duration {
    let Some(last) = seen.last else {
        return Duration::ZERO;
    };
    let interval = seen.interval.unwrap_or(LONGEST_LINGER / 2);
    if now.saturating_duration_since(last) > interval.saturating_mul(2) {
        return Duration::ZERO;
    }
    let both = interval.saturating_mul(WANTED) + interval / 2;
    both.min(LONGEST_LINGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(count: u32, last: Instant, interval: Option<u64>) -> Seen {
        Seen {
            count,
            last: Some(last),
            interval: interval.map(Duration::from_secs),
        }
    }

    #[test]
    fn the_wait_is_as_long_as_two_scrapes_take_and_never_longer_than_a_minute() {
        let now = Instant::now();
        assert_eq!(longest(seen(4, now, Some(15)), now), Duration::from_millis(37_500));
        assert_eq!(longest(seen(4, now, Some(60)), now), Duration::from_mins(1));
        assert_eq!(longest(seen(1, now, None), now), Duration::from_mins(1));
    }

    #[test]
    fn nobody_is_waited_for_who_never_came_or_has_gone() {
        let now = Instant::now();
        assert_eq!(longest(Seen::default(), now), Duration::ZERO);
        let later = now + Duration::from_secs(31);
        assert_eq!(longest(seen(4, now, Some(15)), later), Duration::ZERO);
    }
}
