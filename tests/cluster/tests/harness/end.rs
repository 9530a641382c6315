//! However a test ends, its cluster ends with it and leaves nothing.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lem_test_cluster::{Cluster, NodeOptions, Options};

use crate::shared::binaries;

/// Set for the process that a test starts in order to end it: name of the cluster, and how to end.
const VICTIM: &str = "LEM_TEST_VICTIM";
const FAILS: &str = "LEM_TEST_VICTIM_FAILS";

/// No test by itself: what the others start.
#[tokio::test]
#[ignore = "started by the other tests"]
async fn victim() {
    let Ok(name) = std::env::var(VICTIM) else { return };
    let options = Options {
        nodes: vec![NodeOptions::with_index(0)],
        ..Options::default()
    };
    let cluster = Cluster::start(&name, options).await.unwrap();
    println!("folder {}", cluster.kubeconfig().parent().unwrap().display());
    assert!(std::env::var_os(FAILS).is_none(), "as was wanted");
    std::future::pending::<()>().await;
}

/// The process, its cluster up, and the cluster's folder.
fn start(name: &str, variables: &[(&str, &str)]) -> (Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "end::victim", "--nocapture"])
        .env(VICTIM, name)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let folder = lines
        .map_while(Result::ok)
        .find_map(|line| Some(PathBuf::from(line.split_once("folder ")?.1)));
    (child, folder.expect("the cluster starts"))
}

/// Everything on this machine that belongs to the cluster.
fn remains(name: &str, folder: &Path) -> Vec<String> {
    let mut remains = Vec::new();
    if folder.exists() {
        remains.push(folder.display().to_string());
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let cgroups = fs::read_dir(hierarchy.path().join("lem-test"))
            .into_iter()
            .flatten()
            .flatten();
        let of_cluster = cgroups.filter(|cgroup| cgroup.file_name().to_string_lossy().starts_with(&format!("{name}-")));
        remains.extend(of_cluster.map(|cgroup| cgroup.path().display().to_string()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_cluster = |text: &str| text.contains(&folder.display().to_string());
    remains.extend(mounts.lines().filter(|line| of_cluster(line)).map(str::to_owned));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if of_cluster(&arguments) {
            remains.push(arguments);
        }
    }
    remains
}

fn until_gone(name: &str, folder: &Path) {
    let start = Instant::now();
    while !remains(name, folder).is_empty() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{:#?}",
            remains(name, folder)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "starts a cluster: make test-cluster"]
fn a_killed_test_takes_its_cluster_along() {
    let (mut child, folder) = start("killed", &[]);
    assert!(
        remains("killed", &folder).len() > 10,
        "{:#?}",
        remains("killed", &folder)
    );
    child.kill().unwrap();
    child.wait().unwrap();
    until_gone("killed", &folder);
}

#[test]
#[ignore = "starts a cluster: make test-cluster"]
fn down_removes_what_a_test_and_its_guard_left_when_both_were_killed() {
    let (mut child, folder) = start("abandoned", &[]);
    let guard = fs::read_dir("/proc").unwrap().flatten().find(|process| {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains("guard\0--name\0abandoned")
    });
    let guard = guard.unwrap().file_name().into_string().unwrap();
    assert!(Command::new("kill").args(["-9", &guard]).status().unwrap().success());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!remains("abandoned", &folder).is_empty());
    let down = Command::new(binaries().join("lem-test-cluster"))
        .args(["down", "--name", "abandoned"])
        .status()
        .unwrap();
    assert!(down.success());
    assert_eq!(remains("abandoned", &folder), Vec::<String>::new());
}

#[test]
#[ignore = "starts a cluster: make test-cluster"]
fn a_failed_test_leaves_the_state_of_its_cluster_and_nothing_else() {
    let target = tempfile::tempdir().unwrap();
    let target_folder = target.path().to_str().unwrap();
    let (mut child, folder) = start("failing", &[(FAILS, "1"), ("CARGO_TARGET_DIR", target_folder)]);
    assert!(!child.wait().unwrap().success());
    until_gone("failing", &folder);
    let failures = target.path().join("cluster-failures/end-victim");
    for file in [
        "nodes.txt",
        "events.txt",
        "pods.yaml",
        "cluster/audit.log",
        "cluster/kube-apiserver.log",
    ] {
        let length = fs::metadata(failures.join(file)).map_or(0, |metadata| metadata.len());
        assert!(length > 0, "{file} in {}", failures.display());
    }
    let nodes = fs::read_to_string(failures.join("nodes.txt")).unwrap();
    assert!(nodes.contains("nvidia.com/gpu"), "{nodes}");
}
