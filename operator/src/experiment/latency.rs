//! Latencies pooled over all processes, percentiles once and late (METHODOLOGY §3, §6: never an average of
//! percentiles). Pure.

use hdrhistogram::Histogram;
use lem_crds::{
    metrics::Unavailable,
    runner::WindowRecord,
    samples::{Samples, Unpacked},
};

use super::{availability::Value, completeness::Reported, statistics::percentile};

/// Significant digits of the pooled histogram, those of the contract's own.
const HISTOGRAM_DIGITS: u8 = 3;

/// One kind of latency of all processes.
#[derive(Debug)]
pub(super) struct Pool {
    count: u64,
    sum_seconds: f64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Seconds, ascending.
    Exact(Vec<f64>),
    /// Microseconds; some process had too many samples to send each of them.
    Histogram(Box<Histogram<u64>>),
}

/// Why latencies could not be pooled.
#[derive(Debug, thiserror::Error)]
pub(super) enum LatencyError {
    /// A record is damaged.
    #[error("the latency samples of a process cannot be read: {0}")]
    Unpack(#[source] lem_crds::samples::SamplesError),
    /// A histogram could not take another one.
    #[error("latency histograms cannot be merged: {0}")]
    Merge(String),
}

impl Pool {
    /// Concatenates the samples of all processes; one histogram among them makes the pool a histogram.
    pub(super) fn new<'a>(series: impl IntoIterator<Item = &'a Samples>) -> Result<Self, LatencyError> {
        let (mut count, mut sum_seconds) = (0, 0.0);
        let mut exact = Vec::new();
        let mut histograms = Vec::new();
        for samples in series {
            count += samples.count;
            sum_seconds += samples.sum_seconds;
            match samples.unpack().map_err(LatencyError::Unpack)? {
                Unpacked::Exact(values) => exact.extend(values),
                Unpacked::Histogram(histogram) => histograms.push(histogram),
            }
        }
        let content = if histograms.is_empty() {
            exact.sort_by(f64::total_cmp);
            Content::Exact(exact)
        } else {
            Content::Histogram(merge(&histograms, &exact)?)
        };
        Ok(Self {
            count,
            sum_seconds,
            content,
        })
    }

    /// Mean in milliseconds; exact also for histograms. `when_empty` without a sample.
    pub(super) fn mean_milliseconds(&self, when_empty: Unavailable) -> Value {
        if self.count == 0 {
            return Err(when_empty);
        }
        Ok(self.sum_seconds / self.count as f64 * 1000.0)
    }

    /// Percentile in milliseconds: type 7 on exact samples, within 0.1 % on a histogram.
    pub(super) fn percentile_milliseconds(&self, fraction: f64, when_empty: Unavailable) -> Value {
        match &self.content {
            Content::Exact(sorted) => percentile(sorted, fraction)
                .map(|seconds| seconds * 1000.0)
                .ok_or(when_empty),
            Content::Histogram(histogram) if histogram.is_empty() => Err(when_empty),
            Content::Histogram(histogram) => Ok(histogram.value_at_quantile(fraction) as f64 / 1000.0),
        }
    }
}

/// One histogram of the histograms and the exact samples of all processes.
fn merge(histograms: &[Box<Histogram<u64>>], seconds: &[f64]) -> Result<Box<Histogram<u64>>, LatencyError> {
    let failed = |error: &dyn std::fmt::Display| LatencyError::Merge(error.to_string());
    let mut all = Histogram::<u64>::new(HISTOGRAM_DIGITS).map_err(|error| failed(&error))?;
    for histogram in histograms {
        all.add(&**histogram).map_err(|error| failed(&error))?;
    }
    for value in seconds {
        all.record((value * 1e6).round() as u64)
            .map_err(|error| failed(&error))?;
    }
    Ok(Box::new(all))
}

/// Mean and percentiles of one kind of latency.
pub(super) struct Latencies {
    pub(super) mean: Value,
    pub(super) median: Value,
    pub(super) p95: Value,
    pub(super) p99: Value,
}

/// The kinds of latency of a trial.
pub(super) struct RequestLatencies {
    pub(super) end_to_end: Latencies,
    pub(super) from_send: Latencies,
    pub(super) first_token: Latencies,
    pub(super) gaps: Latencies,
}

impl RequestLatencies {
    /// Pools each kind over all processes. A damaged record makes its kind unavailable, and the error is given back.
    /// Tokens have no times of their own unless every process streamed.
    pub(super) fn new(reported: &[Reported<'_>]) -> (Self, Vec<LatencyError>) {
        let mut damaged = Vec::new();
        let mut pool = |of: fn(&WindowRecord) -> &Samples| {
            Pool::new(reported.iter().map(|process| of(process.window))).map_err(|error| {
                damaged.push(error);
                Unavailable::NotReported
            })
        };
        let end_to_end = pool(|window| &window.end_to_end);
        // Where requests are sent when they are due there is one time for both.
        let from_send = pool(|window| match window.end_to_end_from_send.count {
            0 => &window.end_to_end,
            _ => &window.end_to_end_from_send,
        });
        let first_token = pool(|window| &window.time_to_first_token);
        let gaps = pool(|window| &window.inter_token);
        let streaming = reported.iter().all(|process| process.window.streaming);
        let streamed = |pool| {
            if streaming {
                pool
            } else {
                Err(Unavailable::NotStreaming)
            }
        };
        let completed = reported.iter().any(|process| process.window.requests_completed > 0);
        let no_request = Unavailable::NoCompletedRequest;
        // Completed requests without a gap produced one token each: Σ(output − 1) is zero.
        let no_gap = if completed {
            Unavailable::DivisionByZero
        } else {
            no_request
        };
        let latencies = Self {
            end_to_end: figures(&end_to_end, no_request),
            from_send: figures(&from_send, no_request),
            first_token: figures(&streamed(first_token), no_request),
            gaps: figures(&streamed(gaps), no_gap),
        };
        (latencies, damaged)
    }
}

fn figures(pool: &Result<Pool, Unavailable>, when_empty: Unavailable) -> Latencies {
    let pool = pool.as_ref().map_err(|reason| *reason);
    let at = |fraction| pool.and_then(|pool| pool.percentile_milliseconds(fraction, when_empty));
    Latencies {
        mean: pool.and_then(|pool| pool.mean_milliseconds(when_empty)),
        median: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Unavailable = Unavailable::NoCompletedRequest;

    proptest::proptest! {
        #[test]
        fn pooled_percentiles_are_those_of_the_concatenation(
            series in proptest::collection::vec(proptest::collection::vec(0_u32..10_000_000, 0..40), 1..5),
            fraction in 0.0_f64..=1.0,
        ) {
            let seconds: Vec<Vec<f64>> =
                series.iter().map(|one| one.iter().map(|micro| f64::from(*micro) / 1e6).collect()).collect();
            let packed: Vec<Samples> = seconds.iter().map(|one| Samples::pack(one).unwrap()).collect();
            let pool = Pool::new(&packed).unwrap();
            let mut all = seconds.concat();
            all.sort_by(f64::total_cmp);
            match percentile(&all, fraction) {
                None => proptest::prop_assert_eq!(pool.percentile_milliseconds(fraction, EMPTY), Err(EMPTY)),
                Some(expected) => {
                    let pooled = pool.percentile_milliseconds(fraction, EMPTY).unwrap();
                    proptest::prop_assert!((pooled - expected * 1000.0).abs() < 1e-6);
                    let mean = pool.mean_milliseconds(EMPTY).unwrap();
                    proptest::prop_assert!((mean - all.iter().sum::<f64>() / all.len() as f64 * 1000.0).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn a_histogram_and_exact_samples_pool_to_a_histogram_of_all() {
        let many: Vec<f64> = (0..20_000)
            .map(|index| 0.01 + f64::from(index * 7919 % 20_000) * 1e-6)
            .collect();
        let few = vec![1.0; 20_000 / 4];
        let packed = [Samples::pack(&many).unwrap(), Samples::pack(&few[..100]).unwrap()];
        let pool = Pool::new(&packed).unwrap();
        assert!(
            matches!(pool.content, Content::Histogram(_)),
            "the many samples were exact"
        );
        let maximum = pool.percentile_milliseconds(1.0, EMPTY).unwrap();
        assert!((maximum / 1000.0 - 1.0).abs() < 2e-3, "{maximum}");
        let median = pool.percentile_milliseconds(0.5, EMPTY).unwrap();
        assert!((median / 20.05 - 1.0).abs() < 3e-3, "{median}");
    }

    #[test]
    fn damaged_samples_are_an_error_and_no_percentile() {
        let damaged = Samples {
            count: 3,
            ..Samples::default()
        };
        assert!(Pool::new([&damaged]).is_err());
    }
}
