//! Versions of what is compared, for the results.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a build script speaks to cargo and fails loudly"
)]

use std::process::Command;

fn main() {
    // Without it llama.cpp and candle have only the instructions of the oldest processors of the architecture.
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    assert!(
        flags.contains("target-cpu=native"),
        "start cargo in tests/engine-bench, whose .cargo/config.toml asks for this processor's instructions"
    );
    let lock = std::fs::read_to_string("Cargo.lock").unwrap();
    println!("cargo:rerun-if-changed=Cargo.lock");
    for (variable, package) in [
        ("LEM_BENCH_CANDLE_VERSION", "candle-transformers"),
        ("LEM_BENCH_LLAMA_VERSION", "llama-cpp-sys-2"),
    ] {
        println!("cargo:rustc-env={variable}={}", locked_version(&lock, package));
    }
    println!("cargo:rustc-env=LEM_BENCH_REVISION={}", revision());
    // A new commit changes the first, a changed engine the second.
    for path in ["../../.git", "../../engine/src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(path) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={path}");
    }
}

fn locked_version(lock: &str, package: &str) -> String {
    let header = format!("name = \"{package}\"\nversion = \"");
    let Some((_, rest)) = lock.split_once(&header) else {
        panic!("Cargo.lock has no package {package}");
    };
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// The short hash of the commit, with a mark if the engine has changes that are not committed.
fn revision() -> String {
    let hash = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain", "--", "../../engine"]).is_some_and(|files| !files.is_empty());
    if changed { hash + " with changes" } else { hash }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
