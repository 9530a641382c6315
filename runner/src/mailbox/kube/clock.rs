//! How far this node's clock is from the API server's, by the date that every answer bears. Nodes whose clocks differ do
//! not start together, and their own clocks cannot tell.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, header::DATE};
use jiff::Timestamp;
use kube::{Client, Config, client::ClientBuilder};
use tower::util::MapResponseLayer;

/// Half of a second, the unit of the date: it is cut, not rounded.
const HALF_UNIT_SECONDS: f64 = 0.5;

/// What the last answer said.
#[derive(Debug, Clone, Default)]
pub(super) struct ClockOffset(Arc<Mutex<Option<f64>>>);

impl ClockOffset {
    /// A client by this pod's environment whose answers are looked at.
    pub(super) async fn client(&self) -> Result<Client, kube::Error> {
        let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
        let seen = self.clone();
        let look = MapResponseLayer::new(move |answer: http::Response<_>| {
            seen.see(answer.headers(), Timestamp::now());
            answer
        });
        Ok(ClientBuilder::try_from(config)?.with_layer(&look).build())
    }

    /// This clock minus the API server's, in seconds.
    pub(super) fn seconds(&self) -> Option<f64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, headers: &HeaderMap, now: Timestamp) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        if let Some(date) = date {
            let ahead = now.duration_since(date.timestamp()).as_secs_f64() - HALF_UNIT_SECONDS;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(date: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))])
    }

    #[test]
    fn a_clock_that_is_off_shows_against_the_date_of_an_answer() {
        let offset = ClockOffset::default();
        let now: Timestamp = "2026-11-25T15:14:05.5Z".parse().unwrap();
        offset.see(&answer("Wed, 25 Nov 2026 15:14:00 GMT"), now);
        assert_eq!(offset.seconds(), Some(5.0));
        offset.see(&answer("Wed, 25 Nov 2026 15:14:10 GMT"), now);
        assert_eq!(offset.seconds(), Some(-5.0));
    }

    #[test]
    fn an_answer_without_a_date_that_can_be_read_changes_nothing() {
        let offset = ClockOffset::default();
        offset.see(&HeaderMap::new(), Timestamp::UNIX_EPOCH);
        offset.see(&answer("yesterday"), Timestamp::UNIX_EPOCH);
        assert_eq!(offset.seconds(), None);
    }
}
