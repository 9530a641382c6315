//! How fast this machine reads memory: what bounds a decode step of one sequence.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::system;

/// Bytes that each thread reads in a pass: far more than a cache holds.
const BYTES_PER_THREAD: usize = 384 << 20;
/// Passes that count; one more comes first.
const PASSES: usize = 7;

/// How to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Threads that read
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// CPUs to run on, for example 0,1; all if left out
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
}

/// Read bandwidth of the memory, all threads together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bandwidth {
    /// Threads.
    pub(crate) threads: usize,
    /// Median of the passes, 10⁹ B/s.
    pub(crate) gigabytes_per_second: f64,
    /// Every pass, 10⁹ B/s.
    pub(crate) passes: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn bandwidth(arguments: &Arguments) -> Result<()> {
    system::pin(&arguments.cpus)?;
    let measured = measured(arguments.threads)?;
    #[expect(clippy::print_stdout, reason = "the result of the command")]
    {
        println!("{}", serde_json::to_string(&measured)?);
    }
    Ok(())
}

fn measured(threads: usize) -> Result<Bandwidth> {
    ensure!(threads > 0, "at least one thread has to read");
    let barrier = Barrier::new(threads + 1);
    let seconds = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Written by the thread that reads it: its pages are then near that thread.
                let buffer: Vec<u64> = (0..BYTES_PER_THREAD as u64 / 8).collect();
                for _ in 0..=PASSES {
                    barrier.wait();
                    black_box(sum(black_box(&buffer)));
                    barrier.wait();
                }
            });
        }
        let mut seconds = Vec::new();
        for _ in 0..=PASSES {
            barrier.wait();
            let begin = Instant::now();
            barrier.wait();
            seconds.push(begin.elapsed().as_secs_f64());
        }
        seconds
    });
    let bytes = (threads * BYTES_PER_THREAD) as f64;
    let passes: Vec<f64> = seconds[1..].iter().map(|seconds| bytes / seconds / 1e9).collect();
    let mut sorted = passes.clone();
    sorted.sort_by(f64::total_cmp);
    Ok(Bandwidth {
        threads,
        gigabytes_per_second: sorted[PASSES / 2],
        passes,
    })
}

/// Several sums, so that none of them waits for the one before and every load is as wide as the processor's.
fn sum(values: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for chunk in values.chunks_exact(32) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    sums.iter().fold(0, |total, sum| total.wrapping_add(*sum))
}
