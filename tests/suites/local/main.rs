//! `lem run` as a user meets it: the real binaries, real child processes, files on disk.

#![expect(
    clippy::unwrap_used,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod faults;
mod input;
mod lem;
mod measuring;
