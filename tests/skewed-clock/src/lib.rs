//! The wall clock of one node, moved: loaded by `LD_PRELOAD` into every process of an experiment, it answers those on the
//! node of [`NODE_VARIABLE`] with a time that is off by [`OFFSET_VARIABLE`] seconds. All other clocks are the kernel's.

#![expect(unsafe_code, reason = "it takes the place of a function of the C library")]

use std::{env, sync::OnceLock};

/// Node whose clock is off.
pub const NODE_VARIABLE: &str = "SKEWED_CLOCK_NODE";
/// Seconds that it is ahead.
pub const OFFSET_VARIABLE: &str = "SKEWED_CLOCK_SECONDS";

/// Seconds by which this process's wall clock is ahead.
fn offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let here = env::var("NODE_NAME").ok();
        let skewed = env::var(NODE_VARIABLE).ok();
        let seconds = env::var(OFFSET_VARIABLE).ok().and_then(|text| text.parse().ok());
        seconds.filter(|_| here.is_some() && here == skewed).unwrap_or(0)
    })
}

/// `clock_gettime(2)`.
///
/// # Safety
/// As that of the C library: `time` is valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the arguments are the caller's, as the kernel's interface takes them.
    let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if answer == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has just written to it.
        unsafe { (*time).tv_sec += offset() };
    }
    answer as libc::c_int
}
