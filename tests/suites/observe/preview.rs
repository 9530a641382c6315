//! The dashboards as a page: every panel's title, unit and meaning with what its queries gave. No Grafana runs here, so
//! this is a preview of the data, not of Grafana's looks. Pure.

use std::fmt::Write;

use crate::prometheus::Series;

/// One panel with the answers to its queries.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) dashboard: String,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) unit: String,
    pub(crate) series: Vec<Series>,
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 120.0;
/// More lines than a reader can tell apart.
const MOST_LINES: usize = 8;

/// The page.
pub(crate) fn page(panels: &[Panel]) -> String {
    let mut text = String::from(
        "<!doctype html><meta charset=utf-8><title>Preview of the dashboards</title><style>body{font:14px sans-serif;margin:24px;\
         max-width:1400px}main{display:flex;flex-wrap:wrap;gap:16px}section{border:1px solid #ccc;border-radius:6px;padding:10px;\
         width:440px}h2{width:100%;margin:24px 0 0}h3{margin:0;font-size:15px}p{margin:4px 0;color:#555;font-size:12px}\
         li{font-size:11px;overflow-wrap:anywhere}svg{background:#f7f7f7}</style>\
         <h1>Preview of the dashboards' queries</h1><main>",
    );
    let mut dashboard = "";
    for panel in panels {
        if panel.dashboard != dashboard {
            dashboard = &panel.dashboard;
            let _ = write!(text, "<h2>{}</h2>", escaped(dashboard));
        }
        let _ = write!(
            text,
            "<section><h3>{} <small>{}</small></h3><p>{}</p>{}</section>",
            escaped(&panel.title),
            escaped(&panel.unit),
            escaped(&panel.description),
            drawn(&panel.series)
        );
    }
    text + "</main>"
}

fn drawn(series: &[Series]) -> String {
    let shown: Vec<&Series> = series.iter().take(MOST_LINES).collect();
    let points: Vec<(f64, f64)> = shown.iter().flat_map(|one| one.points()).collect();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points
            .iter()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
    };
    let ((left, right), (low, high)) = (bounds(|point| point.0), bounds(|point| point.1));
    let x = |at: f64| (at - left) / (right - left).max(1.0) * WIDTH;
    let y = |value: f64| HEIGHT - 6.0 - (value - low.min(0.0)) / (high - low.min(0.0)).max(1e-12) * (HEIGHT - 12.0);
    let (mut lines, mut legend) = (String::new(), String::new());
    for (number, one) in shown.iter().enumerate() {
        let hue = number * 47 % 360;
        // A gap of more than three steps is a gap.
        let mut path = String::new();
        let mut before = f64::NEG_INFINITY;
        for (at, value) in one.points() {
            let verb = if at - before > 3.0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", x(at), y(value));
            before = at;
        }
        let _ = write!(
            lines,
            "<path d='{path}' fill=none stroke='hsl({hue} 70% 40%)' stroke-width=1.5 stroke-linecap=round />"
        );
        let labels: Vec<String> = one
            .metric
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let _ = write!(
            legend,
            "<li style='color:hsl({hue} 70% 35%)'>{:.5} <small>{}</small></li>",
            one.value(),
            escaped(&labels.join(" "))
        );
    }
    let more = series.len().saturating_sub(MOST_LINES);
    let more = if more > 0 {
        format!("<p>and {more} more</p>")
    } else {
        String::new()
    };
    format!("<svg width={WIDTH} height={HEIGHT}>{lines}</svg><p>{low:.4} … {high:.4}</p><ul>{legend}</ul>{more}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[test]
fn a_panel_shows_its_series_and_what_it_means() {
    let series: Series =
        serde_json::from_str(r#"{"metric": {"point": "a<b"}, "values": [[1.0, "2"], [2.0, "3"]]}"#).unwrap();
    let panel = Panel {
        dashboard: "fleet".to_owned(),
        title: "Power".to_owned(),
        description: "Watts.".to_owned(),
        unit: "watt".to_owned(),
        series: vec![series],
    };
    let page = page(&[panel]);
    for part in ["Power", "Watts.", "a&lt;b", "<path d='M0.0"] {
        assert!(page.contains(part), "{part} in {page}");
    }
}
