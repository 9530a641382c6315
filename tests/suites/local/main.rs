//! `lem run` as a user meets it: the real binaries, real child processes, files on disk.

mod faults;
mod input;
mod lem;
mod measuring;
