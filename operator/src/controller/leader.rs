//! Leadership by a Lease: every replica computes, only the holder writes. Client, but for `judge`.
//!
//! A Lease expires by this process's own clock, counted from when it last saw the Lease change: clocks of two nodes are
//! never compared. The holder stops writing before the others may take over.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::{Notify, watch};

use super::apply::FIELD_MANAGER;

/// A Lease that is not renewed for so long may be taken.
const DURATION: Duration = Duration::from_secs(15);
/// Between two renewals, and between two looks at another's Lease.
const PERIOD: Duration = Duration::from_secs(5);
/// The holder may write for so long after a renewal: it stops before the others may take over.
const WRITING: Duration = Duration::from_secs(10);

/// One time of leading without a gap: in a gap another replica may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(pub(super) u64);

/// Until when this process may write, and how many terms it has had.
#[derive(Debug, Default)]
struct Tenure {
    until: Option<Instant>,
    terms: u64,
}

impl Tenure {
    fn term(&self, now: Instant) -> Option<Term> {
        let held = self.until.is_some_and(|until| now < until);
        held.then_some(Term(self.terms))
    }

    fn extend(&mut self, until: Instant, now: Instant) {
        if self.term(now).is_none() {
            self.terms += 1;
        }
        self.until = Some(until);
    }

    fn end(&mut self) {
        self.until = None;
    }
}

fn lock(tenure: &Mutex<Tenure>) -> MutexGuard<'_, Tenure> {
    tenure.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this process may write.
#[derive(Debug, Clone)]
pub struct Leadership {
    tenure: Arc<Mutex<Tenure>>,
    changed: watch::Receiver<bool>,
    candidacy: Arc<Notify>,
}

impl Leadership {
    /// For a process that is alone by other means, such as a test.
    pub fn always() -> Self {
        let (_, changed) = watch::channel(true);
        let far = Instant::now() + Duration::from_hours(876_000);
        let tenure = Tenure {
            until: Some(far),
            terms: 1,
        };
        Self {
            tenure: Arc::new(Mutex::new(tenure)),
            changed,
            candidacy: Arc::default(),
        }
    }

    /// Whether this process may write now.
    pub fn is_held(&self) -> bool {
        self.term().is_some()
    }

    /// The term in which this process may write now.
    pub fn term(&self) -> Option<Term> {
        lock(&self.tenure).term(Instant::now())
    }

    /// From now on the Lease is asked for. A replica whose caches are not filled would take what it does not see for
    /// absent; and after a restart in the same pod the Lease is still its own.
    pub fn stand(&self) {
        self.candidacy.notify_one();
    }

    /// Changes whenever leadership is won or lost.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changed.clone()
    }
}

/// Where the Lease is and who asks for it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Unique among the replicas.
    pub identity: String,
}

/// What a replica does with what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Renew,
    Wait,
}

/// What was seen last, and when by this process's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sighting {
    version: Option<String>,
    at: Instant,
}

/// What to do with the Lease as it is. Pure.
fn judge(lease: Option<&Lease>, identity: &str, seen: &mut Option<Sighting>, now: Instant) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    let version = lease.metadata.resource_version.clone();
    if seen.as_ref().is_none_or(|sighting| sighting.version != version) {
        *seen = Some(Sighting { version, at: now });
    }
    let spec = lease.spec.clone().unwrap_or_default();
    match spec.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) => {
            let granted = spec.lease_duration_seconds.unwrap_or(0).max(0);
            let granted = Duration::from_secs(u64::from(granted.unsigned_abs()));
            let since = seen.as_ref().map_or(Duration::ZERO, |sighting| now - sighting.at);
            if since > granted { Step::Take } else { Step::Wait }
        }
    }
}

/// The work of asking for the Lease, which begins with [`Leadership::stand`]; dropping it ends it.
pub fn start(client: Client, candidate: Candidate) -> (Leadership, impl Future<Output = ()>) {
    let (sender, changed) = watch::channel(false);
    let tenure = Arc::new(Mutex::new(Tenure::default()));
    let candidacy = Arc::new(Notify::new());
    let leadership = Leadership {
        tenure: Arc::clone(&tenure),
        changed,
        candidacy: Arc::clone(&candidacy),
    };
    let leases: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let ask = async move {
        candidacy.notified().await;
        let mut seen = None;
        let mut last = None;
        loop {
            let begin = Instant::now();
            let turn = tokio::time::timeout(PERIOD, turn(&leases, &candidate, &mut seen));
            match turn.await {
                Ok(Ok(true)) => lock(&tenure).extend(begin + WRITING, Instant::now()),
                Ok(Ok(false)) => lock(&tenure).end(),
                Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be asked for"),
                Err(_) => tracing::warn!("asking for the Lease took too long"),
            }
            let term = lock(&tenure).term(Instant::now());
            let held = term.is_some();
            sender.send_if_modified(|before| {
                // Also after a gap between two turns: what was not written in it is to be looked at again.
                let changed = term != last;
                if changed {
                    tracing::info!(held, identity = candidate.identity, "leadership changed");
                }
                *before = held;
                changed
            });
            last = term;
            tokio::time::sleep(PERIOD.saturating_sub(begin.elapsed())).await;
        }
    };
    (leadership, ask)
}

/// Gives the Lease back, so that another replica need not wait for its end.
///
/// # Errors
/// The API server could not be asked; the Lease ends by itself.
pub async fn release(client: Client, candidate: &Candidate) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let Some(mut lease) = leases.get_opt(&candidate.name).await? else {
        return Ok(());
    };
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() == Some(candidate.identity.as_str()) {
        spec.holder_identity = None;
        leases.replace(&candidate.name, &parameters(), &lease).await?;
    }
    Ok(())
}

/// One look at the Lease, and one write if it is ours or free. Gives whether it is held.
async fn turn(leases: &Api<Lease>, candidate: &Candidate, seen: &mut Option<Sighting>) -> Result<bool, kube::Error> {
    let found = leases.get_opt(&candidate.name).await?;
    let step = judge(found.as_ref(), &candidate.identity, seen, Instant::now());
    let wanted = claim(found, candidate, step);
    let written = match step {
        Step::Wait => return Ok(false),
        Step::Create => leases.create(&parameters(), &wanted).await,
        // The version that was read goes with it: of two that write, one loses.
        Step::Take | Step::Renew => leases.replace(&candidate.name, &parameters(), &wanted).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn claim(found: Option<Lease>, candidate: &Candidate, step: Step) -> Lease {
    let before = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let now = MicroTime(Timestamp::now());
    let taken = step != Step::Renew;
    Lease {
        metadata: found.map_or_else(
            || ObjectMeta {
                name: Some(candidate.name.clone()),
                namespace: Some(candidate.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(candidate.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if taken { Some(now.clone()) } else { before.acquire_time },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(taken)),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let candidate = Candidate {
            namespace: "lem".to_owned(),
            name: "lem-operator".to_owned(),
            identity: holder.to_owned(),
        };
        let mut lease = claim(None, &candidate, Step::Create);
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    #[test]
    fn a_lease_of_another_is_taken_only_after_it_was_unchanged_for_its_whole_length() {
        let mut seen = None;
        let begin = Instant::now();
        let other = lease("other", "1");
        assert_eq!(judge(Some(&other), "me", &mut seen, begin), Step::Wait);
        assert_eq!(judge(Some(&other), "me", &mut seen, begin + DURATION), Step::Wait);
        let renewed = lease("other", "2");
        assert_eq!(judge(Some(&renewed), "me", &mut seen, begin + DURATION), Step::Wait);
        let late = begin + DURATION * 2 + Duration::from_secs(1);
        assert_eq!(judge(Some(&renewed), "me", &mut seen, late), Step::Take);
    }

    #[test]
    fn a_renewal_in_time_goes_on_with_a_term_and_one_after_a_gap_begins_another() {
        let begin = Instant::now();
        let mut tenure = Tenure::default();
        assert_eq!(tenure.term(begin), None);
        tenure.extend(begin + WRITING, begin);
        let first = tenure.term(begin);
        assert!(first.is_some());
        tenure.extend(begin + PERIOD + WRITING, begin + PERIOD);
        assert_eq!(tenure.term(begin + WRITING), first);
        let late = begin + PERIOD + WRITING;
        assert_eq!(tenure.term(late), None);
        tenure.extend(late + WRITING, late);
        let second = tenure.term(late);
        assert!(second.is_some() && second != first);
        tenure.end();
        assert_eq!(tenure.term(late), None);
    }

    #[tokio::test]
    async fn a_replica_does_not_ask_for_the_lease_before_it_stands() {
        let (service, mut handle) =
            tower_test::mock::pair::<http::Request<kube::client::Body>, http::Response<kube::client::Body>>();
        let candidate = Candidate {
            namespace: "lem".to_owned(),
            name: "lem-operator".to_owned(),
            identity: "me".to_owned(),
        };
        let (leadership, ask) = start(Client::new(service, "lem"), candidate);
        let asking = tokio::spawn(ask);
        let early = tokio::time::timeout(Duration::from_millis(100), handle.next_request()).await;
        assert!(early.is_err(), "it would renew its own Lease on caches that are empty");
        leadership.stand();
        let request = tokio::time::timeout(Duration::from_secs(5), handle.next_request()).await;
        let (request, _) = request.unwrap().unwrap();
        assert!(request.uri().path().ends_with("/leases/lem-operator"));
        asking.abort();
    }

    #[test]
    fn an_absent_a_free_and_an_own_lease_are_had_at_once() {
        let mut seen = None;
        let now = Instant::now();
        assert_eq!(judge(None, "me", &mut seen, now), Step::Create);
        assert_eq!(judge(Some(&lease("me", "1")), "me", &mut seen, now), Step::Renew);
        let mut free = lease("other", "2");
        free.spec.as_mut().unwrap().holder_identity = None;
        assert_eq!(judge(Some(&free), "me", &mut seen, now), Step::Take);
    }
}
