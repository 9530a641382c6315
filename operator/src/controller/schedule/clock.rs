//! Cron: when an experiment is due. Pure.

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};
use jiff::{SignedDuration, Timestamp};

/// Times that were missed longer ago are not made up for, and are not looked for.
const LONGEST_MISS: SignedDuration = SignedDuration::from_hours(40 * 24);

/// A schedule that was understood.
#[derive(Debug)]
pub struct Clock(Crontab);

impl Clock {
    /// Reads the five fields and the time zone; UTC without one.
    ///
    /// # Errors
    /// What is wrong, with the field.
    pub fn new(schedule: &str, time_zone: Option<&str>) -> Result<Self, String> {
        let zone = time_zone.unwrap_or("UTC");
        if jiff::tz::TimeZone::get(zone).is_err() {
            return Err(format!(
                "spec.timeZone: {zone:?} is no time zone of the IANA database, such as Europe/Berlin"
            ));
        }
        parse_crontab(&format!("{} {zone}", schedule.trim()))
            .map(Self)
            .map_err(|error| format!("spec.schedule: {schedule:?}: {error}"))
    }

    /// The first time after this one; none if there never is one, as on the 30th of February.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let next = self.0.find_next(MakeTimestamp(at)).ok()?;
        Some(next.timestamp())
    }

    /// The last time that has come since `after`.
    pub fn last_due(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let earliest = now.checked_sub(LONGEST_MISS).unwrap_or(Timestamp::MIN);
        let mut due = None;
        let mut at = after.max(earliest);
        while let Some(next) = self.next_after(at).filter(|next| *next <= now) {
            due = Some(next);
            at = next;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_schedule_follows_its_time_zone_through_the_change_to_summer_time() {
        let clock = Clock::new("0 3 * * *", Some("Europe/Berlin")).unwrap();
        let before = clock.next_after(at("2026-03-28T00:00:00Z")).unwrap();
        let after = clock.next_after(at("2026-03-29T03:00:00Z")).unwrap();
        assert_eq!(
            (before, after),
            (at("2026-03-28T02:00:00Z"), at("2026-03-30T01:00:00Z"))
        );
    }

    #[test]
    fn of_several_missed_times_only_the_last_is_due() {
        let clock = Clock::new("*/10 * * * *", None).unwrap();
        let due = clock.last_due(at("2026-11-27T10:00:00Z"), at("2026-11-27T12:34:00Z"));
        assert_eq!(due, Some(at("2026-11-27T12:30:00Z")));
        assert_eq!(
            clock.last_due(at("2026-11-27T12:30:00Z"), at("2026-11-27T12:34:00Z")),
            None
        );
    }

    #[test]
    fn a_clock_that_stood_still_for_a_year_is_no_endless_loop() {
        let clock = Clock::new("* * * * *", None).unwrap();
        let due = clock.last_due(at("2020-01-01T00:00:00Z"), at("2026-11-27T12:34:30Z"));
        assert_eq!(due, Some(at("2026-11-27T12:34:00Z")));
    }

    #[test]
    fn what_is_no_schedule_is_said_with_its_field() {
        let words = |schedule: &str, zone: Option<&str>| Clock::new(schedule, zone).unwrap_err();
        assert!(words("61 * * * *", None).starts_with("spec.schedule: \"61 * * * *\""));
        assert!(words("0 3 * * *", Some("Europe/Atlantis")).starts_with("spec.timeZone: \"Europe/Atlantis\""));
        // A zone is no place for further fields.
        assert!(words("0 3 * *", Some("UTC")).starts_with("spec.schedule"));
    }

    #[test]
    fn a_time_that_never_comes_is_none() {
        let clock = Clock::new("0 0 30 2 *", None);
        assert!(clock.is_err() || clock.unwrap().next_after(at("2026-01-01T00:00:00Z")).is_none());
    }
}
