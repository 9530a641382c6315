//! What the operator remembers of an experiment between two looks at it. All of it may be lost: the next operator finds
//! it out again. Pure.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{fleet::look::Outlook, leader::Term, stall::Cause, view::Unexplained};

/// Between two questions about what does not start in a fleet, whatever its size.
pub(super) const BETWEEN_QUESTIONS: Duration = Duration::from_secs(10);
/// What was asked about is asked about again after so long.
const ASKED_AGAIN_AFTER: Duration = Duration::from_mins(2);

/// Experiments that are remembered before those that are gone are forgotten.
const MOST: usize = 1000;

/// Of one experiment.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the API server has refused last.
    pub(super) obstacle: Option<Cause>,
    /// Errors in a row.
    pub(super) errors: u32,
    /// Its namespace is being deleted, which cannot be taken back.
    pub(super) namespace_ends: bool,
    /// When it came into its present phase, if this operator has seen that.
    pub(super) phase_since: Option<Instant>,
    /// Of a fleet: mailboxes that its account has rights on.
    pub(super) granted: Granted,
    /// Of a fleet: every node that has matched.
    pub(super) matched: BTreeSet<String>,
    /// Of a fleet: nodes on which nothing changes any more, by name.
    pub(super) settled: HashMap<String, Arc<Settled>>,
    /// Of a fleet: when its status was written last.
    pub(super) status_written: Option<Instant>,
    /// Of a fleet: its last look.
    pub(super) pace: Pace,
    /// Of a fleet: why processes do not start.
    pub(super) explanations: Explanations,
}

/// Mailboxes that a fleet's account has rights on, as this replica has written them in one term. A leader between two
/// terms may have written other names.
#[derive(Debug, Default)]
pub(super) struct Granted {
    written: Option<(Term, BTreeSet<String>)>,
}

impl Granted {
    /// What is known in a term.
    pub(super) fn known(&self, term: Term) -> BTreeSet<String> {
        let written = self.written.as_ref().filter(|(of, _)| *of == term);
        written.map(|(_, runners)| runners.clone()).unwrap_or_default()
    }

    /// The rights are about to be written anew: a write that fails may have come into force or not.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// The rights were written in a term.
    pub(super) fn learn(&mut self, term: Term, runners: &[String]) {
        self.written = Some((term, runners.iter().cloned().collect()));
    }
}

/// What was found of a node on which nothing changes any more.
#[derive(Debug)]
pub(super) struct Settled {
    /// Versions of everything that it was found in.
    pub(super) versions: String,
    /// What was found.
    pub(super) outlook: Outlook,
}

/// Keeps looks to a share of the time: a fleet reports far more often than anything is to be decided.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration, bool)>,
}

impl Pace {
    /// A look has ended that took so long; `led`, if by a replica that led.
    pub(super) fn looked(&mut self, took: Duration, led: bool) {
        self.last = Some((Instant::now(), took, led));
    }

    /// How long to wait with the next one, so that looks take one in `share` parts of the time. A replica that has begun to
    /// lead does not pay for what it looked at before: the fleet has waited for it already.
    pub(super) fn pause(&self, share: u32, leads: bool) -> Option<Duration> {
        let (ended, took, _) = self.last.filter(|(_, _, led)| *led == leads)?;
        let pause = took * (share - 1);
        pause.checked_sub(ended.elapsed()).filter(|rest| !rest.is_zero())
    }
}

/// What events say of Jobs without pods and pods without a container. Each question is a request, so one is asked in a
/// while and not one for each node.
#[derive(Debug, Default)]
pub(super) struct Explanations {
    by_name: HashMap<String, Explanation>,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Explanation {
    words: Option<String>,
    asked: Instant,
}

impl Explanations {
    /// What was found.
    pub(super) fn words(&self, what: &Unexplained) -> Option<String> {
        self.by_name.get(&what.name)?.words.clone()
    }

    /// What to ask about now of all that waits: first what was never asked about. What waits no more is forgotten.
    pub(super) fn next<'a>(&mut self, waiting: &[&'a Unexplained], now: Instant) -> Option<&'a Unexplained> {
        let names: HashSet<&str> = waiting.iter().map(|what| what.name.as_str()).collect();
        self.by_name.retain(|name, _| names.contains(name.as_str()));
        let ago = |asked: Instant| now.saturating_duration_since(asked);
        if self.asked.is_some_and(|asked| ago(asked) < BETWEEN_QUESTIONS) {
            return None;
        }
        let asked = |what: &Unexplained| self.by_name.get(&what.name).map(|known| known.asked);
        let due = waiting
            .iter()
            .copied()
            .filter(|what| asked(what).is_none_or(|asked| ago(asked) >= ASKED_AGAIN_AFTER));
        due.min_by_key(|what| asked(what))
    }

    /// Keeps an answer; one without words takes none away, for events are kept for an hour only.
    pub(super) fn learn(&mut self, what: &Unexplained, words: Option<String>, now: Instant) {
        self.asked = Some(now);
        let words = words.or_else(|| self.words(what));
        self.by_name
            .insert(what.name.clone(), Explanation { words, asked: now });
    }
}

/// Of all experiments, by UID.
#[derive(Debug, Default)]
pub(super) struct Memories {
    by_experiment: Mutex<HashMap<String, Memory>>,
}

impl Memories {
    /// Reads or changes what is remembered of an experiment.
    pub(super) fn of<T>(&self, uid: &str, look: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.by_experiment.lock().unwrap_or_else(PoisonError::into_inner);
        look(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets experiments that are gone, once there are many. `there` gives the UIDs of all that there are.
    pub(super) fn tidy(&self, there: impl FnOnce() -> HashSet<String>) {
        let mut memories = self.by_experiment.lock().unwrap_or_else(PoisonError::into_inner);
        if memories.len() > MOST {
            let there = there();
            memories.retain(|uid, _| there.contains(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::controller::view::UnexplainedKind;

    #[test]
    fn rights_that_were_written_in_an_earlier_term_or_are_being_written_are_not_relied_upon() {
        let mut granted = Granted::default();
        granted.learn(Term(1), &["mailbox".to_owned()]);
        assert_eq!(granted.known(Term(1)), BTreeSet::from(["mailbox".to_owned()]));
        assert_eq!(granted.known(Term(2)), BTreeSet::new(), "another has led in between");
        granted.forget();
        assert_eq!(granted.known(Term(1)), BTreeSet::new());
    }

    #[test]
    fn one_question_is_asked_in_a_while_and_what_was_never_asked_about_comes_first() {
        let [first, second] = ["a", "b"].map(|name| Unexplained {
            kind: UnexplainedKind::Job,
            name: name.to_owned(),
            since: Timestamp::UNIX_EPOCH,
        });
        let both = [&first, &second];
        let begin = Instant::now();
        let mut explanations = Explanations::default();
        assert_eq!(explanations.next(&both, begin), Some(&first));
        explanations.learn(&first, Some("exceeded quota".to_owned()), begin);
        assert_eq!(explanations.next(&both, begin), None);
        let later = begin + BETWEEN_QUESTIONS;
        assert_eq!(explanations.next(&both, later), Some(&second));
        explanations.learn(&second, None, later);
        assert_eq!(explanations.next(&both, later + BETWEEN_QUESTIONS), None);
        let again = begin + ASKED_AGAIN_AFTER;
        assert_eq!(explanations.next(&both, again), Some(&first));
        explanations.learn(&first, None, again);
        assert_eq!(explanations.words(&first).as_deref(), Some("exceeded quota"));
        assert_eq!(explanations.next(&[], again), None);
        assert_eq!(explanations.words(&first), None, "it waits no more");
    }

    #[test]
    fn a_long_look_is_followed_by_a_pause_but_not_when_it_was_made_before_leading() {
        let mut pace = Pace::default();
        assert_eq!(pace.pause(5, true), None);
        pace.looked(Duration::from_hours(1), false);
        assert!(
            pace.pause(5, false)
                .is_some_and(|pause| pause > Duration::from_hours(3))
        );
        assert_eq!(pace.pause(5, true), None);
        pace.looked(Duration::from_hours(1), true);
        assert!(pace.pause(5, true).is_some());
    }

    #[test]
    fn experiments_that_are_gone_are_forgotten_and_others_are_not() {
        let memories = Memories::default();
        for number in 0..=MOST {
            memories.of(&number.to_string(), |memory| memory.errors = 1);
        }
        memories.tidy(|| HashSet::from(["7".to_owned()]));
        assert_eq!(memories.of("7", |memory| memory.errors), 1);
        assert_eq!(memories.of("8", |memory| memory.errors), 0);
    }
}
