//! Puts the commit into the binary: provenance is a field of every result.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../.git/HEAD");
    println!("cargo::rerun-if-env-changed=LEM_GIT_COMMIT");
    if std::env::var_os("LEM_GIT_COMMIT").is_some() {
        return;
    }
    let output = Command::new("git").args(["rev-parse", "HEAD"]).output();
    if let Some(commit) = output
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
    {
        println!("cargo::rustc-env=LEM_GIT_COMMIT={}", commit.trim());
    }
}
