use std::sync::atomic::AtomicU32;

use super::*;

#[test]
fn every_chunk_runs_once_in_every_region() {
    for threads in [1, 2, 5] {
        let mut pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for chunks in [0, 1, 2, 3, 17, 100] {
            let runs: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
            for _ in 0..20 {
                pool.run(chunks, &|chunk| {
                    runs[chunk].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(
                runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 20),
                "{threads} threads, {chunks} chunks"
            );
        }
    }
}

#[test]
fn threads_that_have_gone_to_sleep_are_woken() {
    let mut pool = Pool::new(3).unwrap();
    let sum = AtomicU32::new(0);
    for round in 0..3 {
        while !pool.state.asleep.iter().all(|asleep| asleep.0.load(Ordering::SeqCst)) {
            thread::yield_now();
        }
        pool.run(50, &|chunk| {
            sum.fetch_add(chunk as u32, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 1225 * (round + 1));
    }
}

#[test]
fn a_panic_of_any_thread_reaches_the_caller_and_the_pool_still_ends() {
    let mut pool = Pool::new(2).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.run(8, &|_| panic!("expected"));
    }));
    assert!(result.is_err());
    drop(pool);
}
