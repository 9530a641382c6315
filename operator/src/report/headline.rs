//! The answer in one sentence, and how far it can be trusted.

use lem_crds::status::{PointResult, Verdict};

use super::{Report, facts, number};

/// The worst verdict of all points; `Invalid` without a point.
pub(super) fn verdict(report: &Report<'_>) -> Verdict {
    report
        .status
        .points
        .iter()
        .map(|point| point.verdict)
        .max()
        .unwrap_or(Verdict::Invalid)
}

/// How many points have which verdict.
pub(super) fn verdict_counts(report: &Report<'_>) -> String {
    let points = &report.status.points;
    let counts: Vec<String> = [Verdict::Valid, Verdict::Suspect, Verdict::Invalid]
        .into_iter()
        .map(|verdict| (verdict, points.iter().filter(|point| point.verdict == verdict).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(verdict, count)| format!("{count} {verdict:?}"))
        .collect();
    match counts.len() {
        0 => "no point has a result".to_owned(),
        1 => format!("all points: {}", counts.join("")),
        _ => format!("the worst of {} points: {}", points.len(), counts.join(", ")),
    }
}

/// The point that costs least per token, of those that may be used.
fn best<'a>(report: &Report<'a>) -> Option<&'a PointResult> {
    report
        .status
        .points
        .iter()
        .filter(|point| point.verdict != Verdict::Invalid)
        .filter_map(|point| Some((point, point.metrics.joules_per_token.as_ref()?.mean)))
        .min_by(|(_, left), (_, right)| left.total_cmp(right))
        .map(|(point, _)| point)
}

/// Whether all points that may be used have their energy from the same domains and sources.
fn one_source(report: &Report<'_>) -> bool {
    let usable = report
        .status
        .points
        .iter()
        .filter(|point| point.verdict != Verdict::Invalid);
    let sources: Vec<_> = usable
        .map(|point| (&point.energy_scope, &point.energy_sources))
        .collect();
    sources.windows(2).all(|pair| pair[0] == pair[1])
}

/// What a token costs, on what, and how sure that is.
pub(super) fn sentence(report: &Report<'_>) -> String {
    let model = facts::printable(report.model);
    let Some(point) = best(report) else {
        return format!("What a token of {model} costs was not measured: no usable point has an energy per token.");
    };
    let Some(energy) = &point.metrics.joules_per_token else {
        return String::new();
    };
    let certainty = match energy.count {
        0 | 1 => "one cycle, so without an interval".to_owned(),
        count => format!("95 % interval of {count} cycles"),
    };
    let best = if report.status.points.len() > 1 {
        format!(" at best, with {}", facts::whole_label(point))
    } else {
        String::new()
    };
    let throughput = point
        .metrics
        .effective_throughput
        .as_ref()
        .map(|throughput| format!(", at {} tokens/s", number::estimate(throughput, "tok/s")))
        .unwrap_or_default();
    let caveat = if one_source(report) {
        ""
    } else {
        " The energy of the points comes from different counters, so the least figure need not be the least cost."
    };
    format!(
        "A token of {model} costs {} J ({certainty}; {}){best}, on {}{throughput}. Verdict of this point: {}.{caveat}",
        number::estimate(energy, "J/tok"),
        facts::energy_source(&point.energy_scope, &point.energy_sources),
        facts::printable(&point.node_class),
        facts::name(&point.verdict),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::Fixture;

    #[test]
    fn an_invalid_point_is_never_the_headline_however_cheap() {
        let fixture = Fixture::new();
        let report = fixture.report();
        let energy = |index: usize| {
            report.status.points[index]
                .metrics
                .joules_per_token
                .as_ref()
                .unwrap()
                .mean
        };
        assert!(energy(3) < energy(2));
        let text = sentence(&report);
        assert!(
            text.contains("workload.batchSize=16") && text.contains("cpu: estimate"),
            "{text}"
        );
    }

    #[test]
    fn the_headline_warns_where_points_were_metered_differently() {
        let mut fixture = Fixture::new();
        assert!(sentence(&fixture.report()).contains("different counters"));
        fixture.status.points.truncate(2);
        assert!(!sentence(&fixture.report()).contains("different counters"));
    }

    #[test]
    fn without_a_usable_point_the_headline_says_that_nothing_was_measured() {
        let mut fixture = Fixture::new();
        fixture.status.points.drain(..3);
        assert!(sentence(&fixture.report()).contains("was not measured"));
    }
}
