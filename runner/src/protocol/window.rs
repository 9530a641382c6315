//! The measured window: device synchronised at both edges, counters read at the edges, nothing else inside.

use jiff::Timestamp;
use lem_crds::{
    experiment::{Batching, PrefixCaching},
    plan::TrialIdentity,
    runner::{
        Assignment, FlopCount, FlopMethod, KvCacheRecord, StaticBatchRecord, SteadyStateRecord, WarmupRecord,
        WindowRecord,
    },
    samples::Samples,
};

use super::{
    Loaded, ProtocolError,
    facts::{self, Parts},
    phases::Phase,
    requests::Execution,
};
use crate::{engine::ExecutionCounts, environment, flops, metrics::LiveRequests};

/// Measures one window and makes its record.
pub(super) fn measure(
    loaded: &mut Loaded,
    execution: Execution<'_>,
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
    let streaming = execution.requests.streaming;
    engine.begin_window(salt(&assignment.window.batching, &assignment.trial, false));
    let before = engine.counts();
    engine.synchronize().map_err(ProtocolError::Engine)?;
    let started = meter.start().map_err(ProtocolError::Meter)?;
    let observed = execution
        .run(engine.as_mut(), live)
        .and_then(|observed| engine.synchronize().map(|()| observed));
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
    let monotonic = |(from, to): (f64, f64)| (observed.began + from, observed.began + to);
    let times = |phase| observed.phases.times(phase).map(|times| times.map(monotonic).collect());
    let steady = observed.steady.map(|steady| monotonic((steady.start, steady.end)));
    let parts = Parts {
        steady_state: steady.map(|steady| vec![steady]),
        prefill: times(Phase::Prefill),
        decode: times(Phase::Decode),
    };
    let facts = facts::report(report, &parts, started);
    Ok(WindowRecord {
        trial: assignment.trial.clone(),
        node: node.clone(),
        start_at,
        started_at: facts::placed(started, started),
        ended_at: facts::placed(started, ended),
        duration_seconds: ended.monotonic_seconds - started.monotonic_seconds,
        clock: facts::clock_quality(),
        warmup,
        input_tokens: observed.input_tokens,
        output_tokens: observed.output_tokens,
        requests_completed: observed.end_to_end.len() as u64,
        requests_failed: 0,
        streaming,
        end_to_end: pack(&observed.end_to_end)?,
        end_to_end_from_send: pack(&observed.end_to_end_from_send)?,
        time_to_first_token: pack(&observed.time_to_first_token)?,
        inter_token: pack(&observed.inter_token)?,
        prefill_seconds: observed.phases.seconds(Phase::Prefill),
        decode_seconds: observed.phases.seconds(Phase::Decode),
        steady_state: observed.steady.map(|steady| SteadyStateRecord {
            start_seconds: observed.began + steady.start - started.monotonic_seconds,
            duration_seconds: steady.end - steady.start,
            tokens: steady.tokens,
        }),
        bytes_moved: after.bytes.zip(before.bytes).map(|(after, before)| after - before),
        flops: Some(FlopCount {
            total: after.flops - before.flops,
            method: FlopMethod::Counted,
            architecture_total: Some(architecture_total),
        }),
        compute_precision: description.compute_precision,
        weight_bytes: description.weight_bytes,
        static_batch: static_batch(&assignment.window.batching, &before, &after),
        kv_cache: Some(kv_cache(&before, &after)),
        energy: facts.energy,
        absent_domains: facts.absent,
        devices: facts.devices,
        resident_peak_bytes: environment::resident_peak_bytes("self"),
    })
}

/// What separates the prefixes of a window from those of the warm-up and of other windows; none if they are to be warm.
pub(super) fn salt(batching: &Batching, trial: &TrialIdentity, warming_up: bool) -> Option<u64> {
    let warm = matches!(batching, Batching::Continuous(continuous) if continuous.prefix_caching == PrefixCaching::Warm);
    let own = [trial.point, trial.cycle, trial.attempt]
        .iter()
        .fold(1, |salt: u64, part| salt << 20 | u64::from(*part));
    (!warm).then_some(own << 1 | u64::from(warming_up))
}

fn static_batch(batching: &Batching, before: &ExecutionCounts, after: &ExecutionCounts) -> Option<StaticBatchRecord> {
    let Batching::Static(batching) = batching else {
        return None;
    };
    let (before, after) = (before.static_batches?, after.static_batches?);
    Some(StaticBatchRecord {
        configured: batching.batch_size,
        steps: after.steps - before.steps,
        rows: after.rows - before.rows,
        padded_tokens: after.padded_tokens - before.padded_tokens,
        real_tokens: after.real_tokens - before.real_tokens,
    })
}

fn kv_cache(before: &ExecutionCounts, after: &ExecutionCounts) -> KvCacheRecord {
    let earlier = before.blocks.unwrap_or_default();
    let during = |after: Option<u64>, before: Option<u64>| Some(after? - before?);
    KvCacheRecord {
        peak_bytes: Some(after.kv_cache_bytes_peak),
        blocks_used: after.blocks.map(|blocks| blocks.peak_used),
        blocks_total: after.blocks.map(|blocks| blocks.total),
        hit_tokens: after
            .blocks
            .and_then(|blocks| during(blocks.hit_tokens, earlier.hit_tokens)),
        queried_tokens: after
            .blocks
            .and_then(|blocks| during(blocks.queried_tokens, earlier.queried_tokens)),
    }
}
