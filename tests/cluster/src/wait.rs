//! Waiting for conditions.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::error::Error;

/// Time between two looks at first; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// One look may not take longer: a server that was killed answers nothing at all.
const LOOK: Duration = Duration::from_secs(5);

/// Looks until the condition holds. `look` returns `Err` with what was there instead; `alive` ends the waiting early.
pub(crate) async fn until<T, F>(
    condition: &str,
    limit: Duration,
    mut alive: impl FnMut() -> Result<(), Error>,
    mut look: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let mut pause = PAUSE;
    loop {
        alive()?;
        let last = match tokio::time::timeout(LOOK, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(last)) => last,
            Err(_) => "no answer".to_owned(),
        };
        if start.elapsed() > limit {
            return Err(Error::Timeout {
                condition: condition.to_owned(),
                limit,
                last,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The same for files and processes, outside of any runtime.
pub(crate) fn until_blocking<T>(
    condition: &str,
    limit: Duration,
    mut alive: impl FnMut() -> Result<(), Error>,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        alive()?;
        if start.elapsed() > limit {
            return Err(Error::Timeout {
                condition: condition.to_owned(),
                limit,
                last: "not there".to_owned(),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST_PAUSE, until};
    use crate::error::Error;

    #[tokio::test]
    async fn what_was_last_seen_is_reported() {
        let error = until(
            "a condition",
            Duration::ZERO,
            || Ok(()),
            || async { Err::<(), _>("rain".to_owned()) },
        )
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "a condition took longer than 0 s; last seen: rain");
    }

    #[tokio::test]
    async fn a_dead_part_ends_the_waiting_at_once() {
        let alive = || Err(Error::NotOurs("etcd".to_owned()));
        let error = until("a condition", LONGEST_PAUSE, alive, || async { Ok(()) })
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NotOurs(_)), "{error}");
    }
}
