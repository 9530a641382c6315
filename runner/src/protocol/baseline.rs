//! Idle power (METHODOLOGY §2): the meters run while nothing else does.

use std::{thread, time::Instant};

use lem_crds::{
    quantity::Duration,
    runner::{IdleBaseline, IdleState},
};

use super::{
    Process, ProtocolError,
    facts::{self, Parts},
};
use crate::energy::Meter;

impl Process<'_> {
    /// Measures idle power for `duration` and puts it on record; nothing at all for a duration of zero.
    pub(super) fn baseline(
        &mut self,
        meter: &mut dyn Meter,
        duration: Duration,
        state: IdleState,
    ) -> Result<(), ProtocolError> {
        if duration.get().is_zero() {
            return Ok(());
        }
        let begin = Instant::now();
        let started = meter.start().map_err(ProtocolError::Meter)?;
        thread::sleep(duration.get());
        let report = meter.stop();
        let readings = report
            .readings
            .into_iter()
            .map(|one| facts::reading(one, &Parts::default(), started))
            .collect();
        self.status.baselines.push(IdleBaseline { state, readings });
        self.status.held.baseline += begin.elapsed().as_secs_f64();
        Ok(())
    }
}
