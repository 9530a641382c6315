use std::{path::Path, process::Command};

use lem_crds::{metrics::MetricSet, status::Verdict};

use super::*;
use crate::{
    experiment::summary::{MeasuredTrial, TrialNode},
    report::fixture::Fixture,
};

fn page_of(fixture: &Fixture) -> String {
    let records = fixture.records();
    html(&Report {
        records: &records,
        ..fixture.report()
    })
    .unwrap()
}

#[test]
fn every_plot_and_every_metric_is_on_the_page() {
    let page = page_of(&Fixture::new());
    // 2 metrics, latency of 4 points, power of one counter in 4 points although 2 processes read it
    assert_eq!(page.matches("<svg").count(), 10);
    for definition in lem_crds::metrics::DEFINITIONS {
        assert_eq!(
            page.matches(&format!("<code>{}</code>", definition.name)).count(),
            4,
            "{}",
            definition.name
        );
    }
    assert!(
        page.contains("source: estimate"),
        "the source of a power series is missing"
    );
    assert!(page.contains("NoDevice"), "the reason of a null is missing");
}

#[test]
fn hostile_names_stay_text_everywhere_on_the_page() {
    let hostile = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'";
    let mut fixture = Fixture::new();
    fixture.status.warnings.push(hostile.to_owned());
    fixture.status.partial.push(hostile.to_owned());
    for point in &mut fixture.status.points {
        point.values.insert(hostile.to_owned(), hostile.to_owned());
        hostile.clone_into(&mut point.node_class);
        for reason in &mut point.reasons {
            hostile.clone_into(&mut reason.message);
        }
    }
    for runner in &mut fixture.runners {
        hostile.clone_into(&mut runner.environment.as_mut().unwrap().engine);
        for window in &mut runner.windows {
            hostile.clone_into(&mut window.energy[0].counter.id);
        }
    }
    let records = fixture.records();
    let page = html(&Report {
        experiment_name: hostile,
        model: hostile,
        generated_by: hostile,
        records: &records,
        ..fixture.report()
    })
    .unwrap();
    assert!(!page.contains("<script"), "a script element");
    assert!(!page.contains("<img"), "an image element");
    assert!(!page.contains("\" onerror"), "an attribute");
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn the_page_asks_nothing_of_any_other_host() {
    let page = page_of(&Fixture::new());
    for request in ["http://", "https://", "src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(request), "{request}");
    }
}

#[test]
fn a_result_without_points_or_records_is_still_a_page() {
    let status = lem_crds::EfficiencyExperimentStatus::default();
    let page = html(&Report {
        experiment_name: "empty",
        model: "none",
        points: &[],
        status: &status,
        trials: &[],
        records: &[],
        generated_by: "lem",
    })
    .unwrap();
    assert!(page.contains("No point has a result.") && page.contains("</html>"));
}

#[test]
fn damaged_latencies_are_named_and_do_not_lose_the_page() {
    let mut fixture = Fixture::new();
    fixture.runners[0].windows[0].end_to_end.data = "not base64!".to_owned();
    assert!(page_of(&fixture).contains("1 series could not be read"));
}

#[test]
fn a_single_cycle_without_an_interval_is_drawn() {
    let mut fixture = Fixture::new();
    for point in &mut fixture.status.points {
        for estimate in [
            &mut point.metrics.joules_per_token,
            &mut point.metrics.effective_throughput,
        ] {
            let estimate = estimate.as_mut().unwrap();
            estimate.count = 1;
            (estimate.lower, estimate.upper, estimate.standard_deviation) = (None, None, None);
        }
    }
    let page = page_of(&fixture);
    assert!(page.contains("one cycle, so without an interval"));
    assert_eq!(page.matches("<svg").count(), 10);
}

#[test]
fn a_repeated_trial_is_drawn_once_with_its_last_attempt() {
    let mut fixture = Fixture::new();
    let circles = page_of(&fixture).matches("<circle").count();
    let mut retried = fixture.trials[0].clone();
    fixture.trials[0].result.verdict = Verdict::Invalid;
    retried.result.attempt = 1;
    retried.result.metrics.joules_per_token = Some(0.777);
    fixture.trials.push(retried);
    for runner in &mut fixture.runners {
        let mut window = runner.windows[0].clone();
        window.trial.attempt = 1;
        runner.windows.push(window);
    }
    let page = page_of(&fixture);
    assert_eq!(page.matches("<circle").count(), circles);
    assert!(page.contains("cycle 0: 0.777"), "the last attempt is missing");
    assert!(
        page.contains("360 requests, pooled"),
        "a replaced attempt was pooled, or the retry was left out"
    );
}

#[test]
fn a_cycle_that_the_mean_leaves_out_is_drawn_as_such() {
    let mut fixture = Fixture::new();
    // One point of it is Invalid as a whole: it has no mean that could leave something out, and is not drawn.
    for point in &mut fixture.status.points {
        if point.verdict == Verdict::Invalid {
            point.metrics = MetricSet::default();
        }
    }
    let page = page_of(&fixture);
    assert!(
        !page.contains("left-out\"") && !page.contains("dashed"),
        "no cycle is left out"
    );
    fixture.trials[0].result.verdict = Verdict::Invalid;
    let page = page_of(&fixture);
    // In the plot of energy and in that of tokens per second.
    assert_eq!(page.matches("left-out\"").count(), 2);
    assert_eq!(page.matches(", not in the mean").count(), 2);
    assert_eq!(page.matches("dashed where the mean leaves one out").count(), 2);
}

#[test]
fn a_large_sweep_says_how_many_power_plots_it_leaves_out() {
    let mut fixture = Fixture::new();
    let windows = fixture.runners[0].windows.clone();
    for index in 4..60 {
        let mut point = fixture.status.points[0].clone();
        point.index = index;
        point.plan_sha256 = format!("plan {index}");
        fixture.status.points.push(point);
        let mut window = windows[0].clone();
        window.trial.plan_sha256 = format!("plan {index}");
        fixture.runners[0].windows.push(window);
    }
    assert!(page_of(&fixture).contains("12 further plots are left out"));
}

#[test]
fn windows_that_were_measured_before_the_sweep_changed_are_drawn_at_their_own_point() {
    let mut fixture = Fixture::new();
    let page = page_of(&fixture);
    for window in fixture.runners.iter_mut().flat_map(|runner| &mut runner.windows) {
        window.trial.point = 3 - window.trial.point;
    }
    assert_eq!(page_of(&fixture), page);
}

#[test]
fn the_latencies_of_a_class_of_nodes_are_those_of_its_own_nodes() {
    let mut fixture = Fixture::new();
    fixture.status.fleet = Some(lem_crds::status::FleetStatus::default());
    let of_point = fixture.status.points[0].node_class.clone();
    let of_trial = fixture.trials[0].clone();
    let classes = [("a", of_point), ("b", "another CPU".to_owned())];
    fixture.trials.clear();
    for (runner, (node, class)) in fixture.runners.iter_mut().zip(classes) {
        for window in &mut runner.windows {
            node.clone_into(&mut window.node);
        }
        let name = node.to_owned();
        fixture.trials.push(MeasuredTrial {
            node: Some(TrialNode { name, class }),
            ..of_trial.clone()
        });
    }
    let page = page_of(&fixture);
    assert!(page.contains("180 requests, pooled") && !page.contains("360 requests, pooled"));
}

#[test]
fn a_browser_shows_every_plot() {
    let chromium = Path::new("/usr/bin/chromium");
    if !chromium.exists() {
        eprintln!("SKIPPED: /usr/bin/chromium is not installed, so the page was not loaded in a browser");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    std::fs::write(&path, page_of(&Fixture::new())).unwrap();
    // Where a person wants to look at the page.
    if let Some(copy) = std::env::var_os("LEM_REPORT_COPY") {
        std::fs::copy(&path, copy).unwrap();
    }
    let output = Command::new("timeout")
        .args([
            "60",
            "/usr/bin/chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args(["--disable-sync", "--disable-dev-shm-usage", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(dom.matches("<svg").count(), 10);
    for element in ["<polyline", "<circle", "</svg>", "plot-10-title", "</footer>"] {
        assert!(dom.contains(element), "{element} is missing after parsing");
    }
}
