//! The prefill and decode phases of a window, by the times of its steps (METHODOLOGY §4). Pure.

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It read prompts.
    Prefill,
    /// It generated tokens.
    Decode,
}

/// Steps of one kind, one right after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    phase: Phase,
    from: f64,
    to: f64,
}

/// The phases of a window, in seconds since the start of execution.
#[derive(Debug, Default)]
pub(super) struct Phases {
    spans: Vec<Span>,
    overlap: bool,
}

impl Phases {
    /// With room for each of so many requests to be prefilled and decoded by itself.
    pub(super) fn for_requests(count: usize) -> Self {
        Self {
            spans: Vec::with_capacity(2 * count),
            overlap: false,
        }
    }

    /// Adds a step.
    pub(super) fn add(&mut self, phase: Phase, from: f64, to: f64) {
        if self.overlap {
            return;
        }
        match self.spans.last_mut() {
            Some(last) if last.phase == phase && last.to >= from => last.to = to,
            _ => self.spans.push(Span { phase, from, to }),
        }
    }

    /// A step did both: from here on nothing tells the phases of the window apart.
    pub(super) fn mix(&mut self) {
        self.overlap = true;
    }

    /// The times of one phase; none where phases overlap.
    pub(super) fn times(&self, phase: Phase) -> Option<impl Iterator<Item = (f64, f64)>> {
        let own = self.spans.iter().filter(move |span| span.phase == phase);
        (!self.overlap).then(|| own.map(|span| (span.from, span.to)))
    }

    /// Their sum in seconds.
    pub(super) fn seconds(&self, phase: Phase) -> Option<f64> {
        self.times(phase).map(|times| times.map(|(from, to)| to - from).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_one_kind_are_one_span_until_the_other_kind_or_a_pause_comes() {
        let mut phases = Phases::for_requests(1);
        phases.add(Phase::Prefill, 0.0, 1.0);
        phases.add(Phase::Prefill, 1.0, 1.5);
        phases.add(Phase::Decode, 1.5, 2.0);
        phases.add(Phase::Decode, 2.0, 2.25);
        // Nothing to do for a second.
        phases.add(Phase::Decode, 3.25, 3.5);
        phases.add(Phase::Prefill, 3.5, 4.0);
        let times = |phase| phases.times(phase).unwrap().collect::<Vec<_>>();
        assert_eq!(times(Phase::Prefill), [(0.0, 1.5), (3.5, 4.0)]);
        assert_eq!(times(Phase::Decode), [(1.5, 2.25), (3.25, 3.5)]);
        assert_eq!(phases.seconds(Phase::Prefill), Some(2.0));
        assert_eq!(phases.seconds(Phase::Decode), Some(1.0));
    }

    #[test]
    fn a_step_of_both_kinds_leaves_neither_a_time() {
        let mut phases = Phases::for_requests(1);
        phases.add(Phase::Prefill, 0.0, 1.0);
        phases.mix();
        phases.add(Phase::Decode, 2.0, 3.0);
        assert_eq!(phases.seconds(Phase::Prefill), None);
        assert_eq!(phases.seconds(Phase::Decode), None);
    }
}
