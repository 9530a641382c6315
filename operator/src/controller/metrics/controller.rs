//! How the controller itself fares.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use lem_crds::status::{ExperimentPhase, VerdictCounts};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    category: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

/// Namespace and name of an experiment.
type Key = (String, String);

/// Counters of one replica; they begin at zero with it.
#[derive(Debug, Clone)]
pub struct ControllerMetrics {
    reconciliations: Counter,
    errors: Family<ErrorLabels, Counter>,
    seconds: Histogram,
    in_progress: Gauge,
    waiting: Arc<Mutex<HashMap<Key, Instant>>>,
    depth: Gauge<u64, AtomicU64>,
    queued: Histogram,
    trials: Family<VerdictLabels, Counter>,
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    /// 1 while this replica may write.
    pub leading: Gauge,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        let short = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
        let phase: fn() -> Histogram =
            || Histogram::new([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0]);
        Self {
            reconciliations: Counter::default(),
            errors: Family::default(),
            seconds: Histogram::new(short),
            in_progress: Gauge::default(),
            waiting: Arc::default(),
            depth: Gauge::default(),
            queued: Histogram::new(short),
            trials: Family::default(),
            phases: Family::new_with_constructor(phase),
            leading: Gauge::default(),
        }
    }
}

impl ControllerMetrics {
    /// Something of an experiment has changed, and a reconciliation is called for.
    pub(in crate::controller) fn called(&self, namespace: &str, name: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        waiting.entry(key).or_insert_with(Instant::now);
        self.depth.set(waiting.len() as u64);
    }

    /// A reconciliation begins.
    pub(in crate::controller) fn begins(&self, namespace: &str, name: &str) {
        self.in_progress.inc();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = waiting.remove(&(namespace.to_owned(), name.to_owned())) {
            self.queued.observe(since.elapsed().as_secs_f64());
        }
        self.depth.set(waiting.len() as u64);
    }

    /// It is over.
    pub(in crate::controller) fn reconciled(&self, took: Duration) {
        self.in_progress.dec();
        self.reconciliations.inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// It has failed.
    pub(in crate::controller) fn failed(&self, category: &'static str) {
        self.errors.get_or_create(&ErrorLabels { category }).inc();
    }

    /// A status with more trials than before was written. What stands in the cluster is the measure, so that a trial is
    /// counted once however often operators change.
    pub(in crate::controller) fn evaluated(&self, before: VerdictCounts, now: VerdictCounts) {
        for ((verdict, before), (_, now)) in before.each().into_iter().zip(now.each()) {
            let counter = self.trials.get_or_create(&VerdictLabels {
                verdict: verdict.into(),
            });
            counter.inc_by(u64::from(now.saturating_sub(before)));
        }
    }

    /// An experiment has left a phase.
    pub(in crate::controller) fn left(&self, phase: ExperimentPhase, after: Duration) {
        let seconds = self.phases.get_or_create(&PhaseLabels { phase: phase.into() });
        seconds.observe(after.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        // From zero on, so that the first trial is an increase.
        for (verdict, _) in VerdictCounts::default().each() {
            drop(self.trials.get_or_create(&VerdictLabels {
                verdict: verdict.into(),
            }));
        }
        registry.register(
            "operator_reconciliations",
            "Reconciliations",
            self.reconciliations.clone(),
        );
        registry.register(
            "operator_reconcile_errors",
            "Reconciliations that failed, by category",
            self.errors.clone(),
        );
        registry.register_with_unit(
            "operator_reconcile_duration",
            "Length of a reconciliation",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "operator_reconciliations_in_progress",
            "Reconciliations under way",
            self.in_progress.clone(),
        );
        registry.register(
            "operator_queue_depth",
            "Experiments whose processes, pods or Jobs have news that no reconciliation has looked at",
            self.depth.clone(),
        );
        registry.register_with_unit(
            "operator_queue_duration",
            "Time from such news to the reconciliation that looks at it",
            Unit::Seconds,
            self.queued.clone(),
        );
        registry.register(
            "operator_trials",
            "Trials that came to a result, by verdict",
            self.trials.clone(),
        );
        registry.register_with_unit(
            "operator_phase_duration",
            "Time that experiments spent in a phase before they left it",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "operator_leading",
            "1 while this replica may write",
            self.leading.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("operator_build", "What runs here", build);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_one_experiment_count_once_until_it_is_looked_at() {
        let metrics = ControllerMetrics::default();
        metrics.called("a", "one");
        metrics.called("a", "one");
        metrics.called("b", "one");
        assert_eq!(metrics.depth.get(), 2);
        metrics.begins("a", "one");
        assert_eq!(metrics.depth.get(), 1);
    }

    #[test]
    fn a_trial_is_counted_when_the_status_with_it_is_written_and_not_again() {
        let metrics = ControllerMetrics::default();
        let one = VerdictCounts {
            suspect: 1,
            ..VerdictCounts::default()
        };
        metrics.evaluated(VerdictCounts::default(), one);
        metrics.evaluated(one, one);
        let counted = |verdict| metrics.trials.get_or_create(&VerdictLabels { verdict }).get();
        assert_eq!((counted("Valid"), counted("Suspect")), (0, 1));
    }
}
