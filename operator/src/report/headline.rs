//! The answer in one sentence, and how far it can be trusted.

use lem_crds::status::{PointResult, Verdict};

use super::{Report, facts, number};
use crate::experiment::cheapest;

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

/// Best points that the headline names; all of them are in the table.
const MOST_NAMED: usize = 5;

/// What a token costs, on what, and how sure that is. Where points are not comparable, for other nodes or other energy,
/// there is no best of all, and the best of each kind is named.
pub(super) fn sentence(report: &Report<'_>) -> String {
    let model = facts::printable(report.model);
    let best = cheapest(&report.status.points);
    if best.is_empty() {
        return format!("What a token of {model} costs was not measured: no usable point has an energy per token.");
    }
    if let [point] = best[..] {
        return format!(
            "A token of {model} costs {}. Verdict of this point: {}.",
            cost(report, point),
            facts::name(&point.verdict)
        );
    }
    let named = best.iter().take(MOST_NAMED);
    let mut kinds: Vec<String> = named
        .map(|point| format!("{}, {}", cost(report, point), facts::name(&point.verdict)))
        .collect();
    if best.len() > MOST_NAMED {
        kinds.push(format!("and {} more in the table", best.len() - MOST_NAMED));
    }
    format!(
        "There is no single best point: energy of other nodes, domains or sources is not compared. A token of {model} \
         costs {}.",
        kinds.join("; ")
    )
}

/// The cost of a token at a point, in words that follow "costs".
fn cost(report: &Report<'_>, point: &PointResult) -> String {
    let Some(energy) = &point.metrics.joules_per_token else {
        return number::NOTHING.to_owned();
    };
    let (one, unit) = if report.status.fleet.is_some() {
        ("one node", "nodes")
    } else {
        ("one cycle", "cycles")
    };
    let certainty = match energy.count {
        0 | 1 => format!("{one}, so without an interval"),
        count => format!("95 % interval of {count} {unit}"),
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
    format!(
        "{} J ({certainty}; {}){best}, on {}{throughput}",
        number::estimate(energy, "J/tok"),
        facts::energy_source(&point.energy_scope, &point.energy_sources),
        facts::printable(&point.node_class),
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
    fn points_that_were_metered_differently_have_no_common_best_and_the_best_of_each_kind_is_named() {
        let mut fixture = Fixture::new();
        let text = sentence(&fixture.report());
        assert!(text.starts_with("There is no single best point"), "{text}");
        for best in [
            "cpu: rapl) at best, with model.dtype=f32, workload.batchSize=4,",
            "cpu: estimate) at best",
        ] {
            assert!(text.contains(best), "{text}");
        }
        fixture.status.points.truncate(2);
        let text = sentence(&fixture.report());
        assert!(text.starts_with("A token of SmolLM2-135M costs 0.5162"), "{text}");
        "another CPU".clone_into(&mut fixture.status.points[0].node_class);
        let text = sentence(&fixture.report());
        assert!(text.contains("on another CPU") && text.contains("0.5162"), "{text}");
    }

    #[test]
    fn without_a_usable_point_the_headline_says_that_nothing_was_measured() {
        let mut fixture = Fixture::new();
        fixture.status.points.drain(..3);
        assert!(sentence(&fixture.report()).contains("was not measured"));
    }
}
