//! Sums over the processes of a trial (METHODOLOGY §6): tokens once per replica, FLOPs, time, batches and caches. Pure.
//!
//! One process is one replica, so tokens are added once per process. Every sum is whole or missing with a reason.

use lem_crds::{
    metrics::Unavailable,
    runner::{FlopMethod, KvCacheRecord, StaticBatchRecord},
};

use super::{
    attribution::Interval,
    availability::{Value, ratio, sum},
    completeness::Reported,
    energy::window_interval,
};

/// Tokens of all processes.
pub(super) struct Tokens {
    pub(super) input: f64,
    pub(super) output: f64,
}

pub(super) fn tokens(reported: &[Reported<'_>]) -> Tokens {
    let total = |count: fn(&Reported<'_>) -> u64| reported.iter().map(count).sum::<u64>() as f64;
    Tokens {
        input: total(|process| process.window.input_tokens),
        output: total(|process| process.window.output_tokens),
    }
}

/// Mean over processes of the length of their windows.
pub(super) fn inference_time(reported: &[Reported<'_>]) -> Value {
    ratio(
        sum(reported.iter().map(|process| Ok(process.window.duration_seconds))),
        Ok(reported.len() as f64),
    )
}

/// Mean over processes of each process's tokens per second, as the founding document has it.
pub(super) fn mean_tokens_per_second(reported: &[Reported<'_>]) -> Value {
    let own = reported.iter().map(|process| {
        let tokens = process.window.input_tokens + process.window.output_tokens;
        ratio(Ok(tokens as f64), Ok(process.window.duration_seconds))
    });
    ratio(sum(own), Ok(reported.len() as f64))
}

/// First start to last end; the monotonic length where there is one process only.
pub(super) fn duration(reported: &[Reported<'_>]) -> Value {
    match reported {
        [] => Err(Unavailable::NotReported),
        [only] => Ok(only.window.duration_seconds),
        several => {
            let windows = windows(several);
            let start = windows.iter().map(|window| window.start).fold(f64::INFINITY, f64::min);
            let end = windows
                .iter()
                .map(|window| window.end)
                .fold(f64::NEG_INFINITY, f64::max);
            Ok(end - start)
        }
    }
}

fn windows(reported: &[Reported<'_>]) -> Vec<Interval> {
    reported.iter().map(window_interval).collect()
}

/// Time that all windows share, over the shortest of them.
pub(super) fn temporal_overlap(reported: &[Reported<'_>]) -> Value {
    if reported.len() < 2 {
        return Err(Unavailable::SingleProcess);
    }
    let windows = windows(reported);
    let start = windows
        .iter()
        .map(|window| window.start)
        .fold(f64::NEG_INFINITY, f64::max);
    let end = windows.iter().map(|window| window.end).fold(f64::INFINITY, f64::min);
    let shortest = windows
        .iter()
        .map(|window| window.length())
        .fold(f64::INFINITY, f64::min);
    ratio(Ok((end - start).max(0.0)), Ok(shortest))
}

/// Latest minus earliest actual start, in milliseconds.
pub(super) fn start_skew_milliseconds(reported: &[Reported<'_>]) -> Value {
    if reported.len() < 2 {
        return Err(Unavailable::SingleProcess);
    }
    let starts = reported.iter().map(|process| process.window.started_at.as_nanosecond());
    let skew = starts
        .clone()
        .max()
        .zip(starts.min())
        .map(|(latest, earliest)| (latest - earliest) as f64 / 1e6);
    skew.ok_or(Unavailable::NotReported)
}

/// Measured over held seconds, both summed over the processes.
pub(super) fn duty_cycle(reported: &[Reported<'_>]) -> Value {
    ratio(
        sum(reported.iter().map(|process| Ok(process.held.measured))),
        sum(reported.iter().map(|process| Ok(process.held.total))),
    )
}

/// Seconds of one phase over all processes; missing as soon as one process cannot tell its phases apart.
pub(super) fn phase_seconds(reported: &[Reported<'_>], of: fn(&Reported<'_>) -> Option<f64>) -> Value {
    sum(reported
        .iter()
        .map(|process| of(process).ok_or(Unavailable::PhaseNotResolved)))
}

/// Bytes that the products of all processes moved.
pub(super) fn bytes_moved(reported: &[Reported<'_>]) -> Value {
    sum(reported
        .iter()
        .map(|process| process.window.bytes_moved.ok_or(Unavailable::NotSupported)))
}

/// FLOPs of all processes and the least confident tier among them.
pub(super) fn flops(reported: &[Reported<'_>]) -> Result<(f64, FlopMethod), Unavailable> {
    let mut total = 0.0;
    let mut method: Option<FlopMethod> = None;
    for process in reported {
        let count = process.window.flops.as_ref().ok_or(Unavailable::NoFlops)?;
        total += count.total;
        if method.is_none_or(|so_far| count.method.confidence() < so_far.confidence()) {
            method = Some(count.method);
        }
    }
    method.map(|method| (total, method)).ok_or(Unavailable::NoFlops)
}

/// The factor of the compute precision: the smallest one where processes differ.
pub(super) fn precision_factor(reported: &[Reported<'_>]) -> Value {
    let factors = reported.iter().map(|process| process.window.compute_precision.factor());
    factors.reduce(f64::min).ok_or(Unavailable::NotReported)
}

/// Static batching of all processes.
pub(super) struct Batches {
    pub(super) effective: Value,
    pub(super) utilisation: Value,
    pub(super) padding: Value,
}

pub(super) fn batches(reported: &[Reported<'_>]) -> Batches {
    let total = |of: fn(&StaticBatchRecord) -> f64| {
        sum(reported.iter().map(|process| {
            process
                .window
                .static_batch
                .as_ref()
                .map(of)
                .ok_or(Unavailable::NotStaticBatching)
        }))
    };
    let rows = total(|batch| batch.rows as f64);
    let padded = total(|batch| batch.padded_tokens as f64);
    let padding = total(|batch| batch.padded_tokens as f64 - batch.real_tokens as f64);
    Batches {
        effective: ratio(rows, total(|batch| batch.steps as f64)),
        utilisation: ratio(rows, total(|batch| batch.steps as f64 * f64::from(batch.configured))),
        padding: ratio(padding, padded),
    }
}

/// One figure of the KV cache over all processes. `absent` is the reason where the engine has a cache and not this.
pub(super) fn kv_cache(reported: &[Reported<'_>], of: fn(&KvCacheRecord) -> Option<u64>, absent: Unavailable) -> Value {
    sum(reported.iter().map(|process| {
        let record = process.window.kv_cache.as_ref().ok_or(Unavailable::NoKvCacheReport)?;
        of(record).map(|value| value as f64).ok_or(absent)
    }))
}
