//! The measured window: device synchronised at both edges, counters read at the edges, nothing else inside.

use jiff::Timestamp;
use lem_crds::{
    runner::{Assignment, FlopCount, FlopMethod, KvCacheRecord, WarmupRecord, WindowRecord},
    samples::Samples,
};

use super::{Loaded, ProtocolError, facts, requests};
use crate::{environment, flops, metrics::LiveRequests, workload::Requests};

/// Measures one window and makes its record.
pub(super) fn measure(
    loaded: &mut Loaded,
    requests: &Requests,
    assignment: &Assignment,
    start_at: Option<Timestamp>,
    warmup: WarmupRecord,
    live: &LiveRequests,
) -> Result<WindowRecord, ProtocolError> {
    let Loaded {
        engine,
        meter,
        node,
        previous_plan: _,
    } = loaded;
    let before = engine.counts();
    engine.synchronize().map_err(ProtocolError::Engine)?;
    let started = meter.start().map_err(ProtocolError::Meter)?;
    let observed =
        requests::execute(requests, engine.as_mut(), live).and_then(|observed| engine.synchronize().map(|()| observed));
    let ended = meter.mark_end();
    // From here on the window is over.
    let report = meter.stop();
    let observed = observed
        .inspect_err(|_| engine.abort())
        .map_err(ProtocolError::Engine)?;

    let after = engine.counts();
    let description = engine.description();
    let architecture_total = observed
        .lengths
        .iter()
        .map(|(prompt, output)| flops::architecture_flops(&description.architecture, *prompt, *output))
        .sum();
    let pack = |seconds: &[f64]| Samples::pack(seconds).map_err(ProtocolError::Samples);
    let facts = facts::report(report);
    Ok(WindowRecord {
        trial: assignment.trial.clone(),
        node: node.clone(),
        start_at,
        started_at: facts::timestamp(started.wall_seconds),
        ended_at: facts::timestamp(ended.wall_seconds),
        duration_seconds: ended.monotonic_seconds - started.monotonic_seconds,
        clock: facts::clock_quality(),
        warmup,
        input_tokens: observed.input_tokens,
        output_tokens: observed.output_tokens,
        requests_completed: observed.end_to_end.len() as u64,
        requests_failed: 0,
        streaming: requests.streaming,
        end_to_end: pack(&observed.end_to_end)?,
        time_to_first_token: pack(&observed.time_to_first_token)?,
        inter_token: pack(&observed.inter_token)?,
        prefill_seconds: Some(observed.prefill_seconds),
        decode_seconds: Some(observed.decode_seconds),
        flops: Some(FlopCount {
            total: after.flops - before.flops,
            method: FlopMethod::Counted,
            architecture_total: Some(architecture_total),
        }),
        compute_precision: description.compute_precision,
        weight_bytes: description.weight_bytes,
        static_batch: None,
        kv_cache: Some(KvCacheRecord {
            peak_bytes: Some(after.kv_cache_bytes_peak),
            ..KvCacheRecord::default()
        }),
        energy: facts.energy,
        absent_domains: facts.absent,
        devices: facts.devices,
        resident_peak_bytes: environment::resident_peak_bytes("self"),
    })
}
