//! The `lem-test-cluster` command.

fn main() -> std::process::ExitCode {
    lem_test_cluster::program::main()
}
