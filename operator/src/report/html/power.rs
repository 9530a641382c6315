//! Power of one counter over the windows of one point, a line per cycle.

use std::collections::BTreeMap;

use lem_crds::runner::{CounterIdentity, EnergyReading};

use super::{
    axis::Axis,
    drawing::{Anchor, Drawing, WIDTH, width},
};

const LEFT: f64 = 56.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 196.0;
/// Lines that have a style of their own; further cycles repeat them.
const STYLES: u32 = 6;

/// The drawing of one counter.
pub(super) fn draw(title: &str, cycles: &BTreeMap<u32, &EnergyReading>) -> Drawing {
    let samples = || cycles.values().flat_map(|reading| &reading.power);
    let seconds = samples().map(|sample| sample.offset_seconds);
    let x = Axis::around(seconds, true, 6, LEFT, RIGHT);
    let y = Axis::around(samples().map(|sample| sample.watts), true, 4, BOTTOM, TOP);
    let (count, sum) = samples().fold((0_u32, 0.0), |(n, sum), sample| (n + 1, sum + sample.watts));
    let description = format!(
        "{} cycles, {count} samples, mean {:.1} W",
        cycles.len(),
        sum / f64::from(count.max(1))
    );
    let mut drawing = Drawing::new(title, &description, BOTTOM + 40.0);
    for (pixel, label) in y.ticks() {
        drawing.line("grid", (LEFT, pixel), (RIGHT, pixel));
        drawing.text("tick", Anchor::End, (LEFT - 6.0, pixel + 4.0), &label);
    }
    for (pixel, label) in x.ticks() {
        drawing.line("axis", (pixel, BOTTOM), (pixel, BOTTOM + 4.0));
        drawing.text("tick", Anchor::Middle, (pixel, BOTTOM + 17.0), &label);
    }
    drawing.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    drawing.text("name", Anchor::Start, (4.0, 16.0), "power in W");
    let middle = f64::midpoint(LEFT, RIGHT);
    drawing.text(
        "name",
        Anchor::Middle,
        (middle, BOTTOM + 35.0),
        "seconds since the start of the window",
    );
    legend(&mut drawing, cycles.keys().copied());
    for (cycle, reading) in cycles {
        let points = reading
            .power
            .iter()
            .map(|sample| (x.pixel(sample.offset_seconds), y.pixel(sample.watts)));
        drawing.polyline(&format!("series s{}", cycle % STYLES), points);
    }
    drawing
}

/// What the caption says of a counter: which it is and how its power was obtained.
pub(super) fn source(counter: &CounterIdentity, cycles: &BTreeMap<u32, &EnergyReading>) -> String {
    let mut sources: Vec<&str> = cycles.values().map(|reading| reading.source.name()).collect();
    sources.sort_unstable();
    sources.dedup();
    let averaged = if cycles.values().any(|reading| reading.power_is_averaged) {
        ", moving average"
    } else {
        ""
    };
    format!(
        "{} {} on {}, source: {}{averaged}",
        counter.domain.name(),
        counter.id,
        counter.node,
        sources.join(", ")
    )
}

fn legend(drawing: &mut Drawing, cycles: impl Iterator<Item = u32>) {
    let mut x = 120.0;
    for cycle in cycles {
        let label = format!("cycle {cycle}");
        if x + 26.0 + width(&label) > RIGHT - 16.0 {
            drawing.text("tick", Anchor::Start, (x, 16.0), "…");
            return;
        }
        drawing.line(&format!("series s{}", cycle % STYLES), (x, 12.0), (x + 20.0, 12.0));
        drawing.text("tick", Anchor::Start, (x + 25.0, 16.0), &label);
        x += 40.0 + width(&label);
    }
}
