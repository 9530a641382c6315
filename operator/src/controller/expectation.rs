//! The operator's own writes, until its caches show them: a decision made on an older state would be made twice. Pure
//! but for the clock that bounds the wait.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{Resource, ResourceExt};

/// An object that is not seen for so long has gone again, or the watch is broken: then the caches are all there is.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Expected {
    experiment: String,
    version: u64,
    since: Instant,
}

/// Versions that were written and must be seen.
#[derive(Debug, Default)]
pub struct Expectations {
    by_object: Mutex<HashMap<String, Expected>>,
}

impl Expectations {
    /// Remembers what a write has come to.
    pub fn expect<K: Resource<DynamicType = ()>>(&self, experiment: &str, written: &K) {
        let (Some(uid), Some(version)) = (written.uid(), version(written)) else {
            return;
        };
        let mut expected = self.by_object.lock().unwrap_or_else(PoisonError::into_inner);
        expected.insert(
            uid,
            Expected {
                experiment: experiment.to_owned(),
                version,
                since: Instant::now(),
            },
        );
    }

    /// Forgets what the caches show by now; gives whether anything of this experiment is still missing.
    pub fn missing(&self, experiment: &str, seen: &HashMap<String, u64>) -> bool {
        let mut expected = self.by_object.lock().unwrap_or_else(PoisonError::into_inner);
        expected.retain(|uid, waiting| {
            let other = waiting.experiment != experiment;
            let arrived = seen.get(uid).is_some_and(|version| *version >= waiting.version);
            waiting.since.elapsed() < PATIENCE && (other || !arrived)
        });
        expected.values().any(|waiting| waiting.experiment == experiment)
    }
}

/// The version of an object as a number. Versions of one resource are ordered (KEP-5504).
pub fn version<K: Resource<DynamicType = ()>>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    #[test]
    fn a_write_is_missing_until_the_cache_shows_it_or_something_newer() {
        let written = Pod {
            metadata: ObjectMeta {
                uid: Some("a".to_owned()),
                resource_version: Some("7".to_owned()),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        };
        let expectations = Expectations::default();
        expectations.expect("experiment", &written);
        assert!(expectations.missing("experiment", &HashMap::new()));
        assert!(!expectations.missing("another", &HashMap::new()));
        assert!(expectations.missing("experiment", &[("a".to_owned(), 6)].into()));
        assert!(!expectations.missing("experiment", &[("a".to_owned(), 8)].into()));
        assert!(!expectations.missing("experiment", &HashMap::new()));
    }
}
