//! Several meters as one: all edges close together, settling afterwards; and domains without any meter.

use super::{
    Meter, MeterError,
    clock::Mark,
    live::LivePower,
    reading::{Absent, CounterDescription, MeterReport},
};

/// Runs meters together. Without any it is the meter that is off: it reports only why.
#[derive(Default)]
pub struct CombinedMeter {
    meters: Vec<Box<dyn Meter>>,
    absent: Vec<Absent>,
}

impl CombinedMeter {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a meter. The last one added is started last, so its start edge is the closest to the work.
    pub fn add(&mut self, meter: impl Meter + 'static) {
        self.meters.push(Box::new(meter));
    }

    /// Adds a domain that nobody meters.
    pub fn add_absent(&mut self, absent: Absent) {
        self.absent.push(absent);
    }

    /// The domains that nobody meters, and why.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }
}

impl Meter for CombinedMeter {
    fn describe(&self) -> Vec<CounterDescription> {
        self.meters.iter().flat_map(|meter| meter.describe()).collect()
    }

    fn show(&mut self, live: &LivePower) {
        for meter in &mut self.meters {
            meter.show(live);
        }
    }

    fn arm(&mut self) -> Result<(), MeterError> {
        self.meters.iter_mut().try_for_each(|meter| meter.arm())
    }

    fn await_update(&mut self) {
        for meter in &mut self.meters {
            meter.await_update();
        }
    }

    fn start(&mut self) -> Result<Mark, MeterError> {
        let mut start = Mark::now();
        for meter in &mut self.meters {
            start = meter.start()?;
        }
        Ok(start)
    }

    fn mark_end(&mut self) -> Mark {
        // In the reverse order, so that the windows are nested.
        let ends: Vec<Mark> = self.meters.iter_mut().rev().map(|meter| meter.mark_end()).collect();
        ends.first().copied().unwrap_or_else(Mark::now)
    }

    fn stop(&mut self) -> MeterReport {
        self.mark_end();
        let mut report = MeterReport {
            absent: self.absent.clone(),
            ..MeterReport::default()
        };
        for meter in &mut self.meters {
            report.merge(meter.stop());
        }
        report
    }
}
