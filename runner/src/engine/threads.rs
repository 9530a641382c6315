//! How many threads to compute with: what the control group grants, not what the machine has.
//!
//! candle and its matrix products read `CANDLE_NUM_THREADS` and `RAYON_NUM_THREADS` when their pools start. The
//! environment of a running process cannot be changed safely, so whoever starts the measuring process sets
//! [`thread_environment`] on it (or the process starts itself again with it).
//!
//! This is not a refinement. Measured with candle 0.11.1 on two cores, SmolLM2-135M in `Q4_1`: 30 tokens/s with two
//! threads, 15 with one, and 2.6 where both variables were unset.

use std::num::NonZeroUsize;
use std::path::Path;

/// The environment that makes candle and rayon use [`available_threads`] threads.
///
/// `root` is `/` outside tests.
pub fn thread_environment(root: &Path) -> [(&'static str, String); 2] {
    let threads = available_threads(root).to_string();
    [("RAYON_NUM_THREADS", threads.clone()), ("CANDLE_NUM_THREADS", threads)]
}

/// Threads that the engine's pools compute with in this process: what `RAYON_NUM_THREADS` says, else
/// [`available_threads`].
pub fn engine_threads() -> usize {
    std::env::var("RAYON_NUM_THREADS")
        .ok()
        .and_then(|threads| threads.parse().ok())
        .filter(|threads| *threads > 0)
        .unwrap_or_else(|| available_threads(Path::new("/")))
}

/// Threads that can run at the same time: the affinity mask of the process, cut by the CPU quota of its control group
/// (version 2 or 1, nested groups included), rounded up; at least 1.
///
/// `root` is `/` outside tests.
pub fn available_threads(root: &Path) -> usize {
    let runnable = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    match control_group_limit(root) {
        Some(limit) => runnable.min((limit.ceil() as usize).max(1)),
        None => runnable,
    }
}

/// CPUs that the quota of the process's control group grants, or `None` without a quota.
///
/// Reads `proc/self/cgroup` under `root`, then the quota of that group and of its parents; inside a container the
/// group's path may not be visible, then the mount's own files are read.
pub fn control_group_limit(root: &Path) -> Option<f64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let version2 = controllers.is_empty();
        if !version2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let mounts = ["sys/fs/cgroup", "sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"];
        for mount in if version2 { &mounts[..1] } else { &mounts[1..] } {
            let mount = root.join(mount);
            let group = Path::new(group.trim_start_matches('/'));
            for ancestor in group.ancestors() {
                limits.extend(directory_limit(&mount.join(ancestor), version2));
            }
        }
    }
    limits.into_iter().reduce(f64::min)
}

fn directory_limit(directory: &Path, version2: bool) -> Option<f64> {
    if version2 {
        return parse_cpu_max(&std::fs::read_to_string(directory.join("cpu.max")).ok()?);
    }
    let quota = std::fs::read_to_string(directory.join("cpu.cfs_quota_us")).ok()?;
    let period = std::fs::read_to_string(directory.join("cpu.cfs_period_us")).ok()?;
    parse_quota_and_period(&quota, &period)
}

/// CPUs granted by the contents of `cpu.max` (version 2): `max 100000`, or a quota and a period in microseconds.
pub fn parse_cpu_max(contents: &str) -> Option<f64> {
    let mut fields = contents.split_ascii_whitespace();
    let quota = fields.next()?;
    parse_quota_and_period(quota, fields.next().unwrap_or("100000"))
}

/// CPUs granted by a quota and a period in microseconds (version 1: `-1` is no quota).
pub fn parse_quota_and_period(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, contents: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    #[test]
    fn a_missing_or_unlimited_quota_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(control_group_limit(root.path()), None);
        write(root.path(), "proc/self/cgroup", "0::/\n");
        write(root.path(), "sys/fs/cgroup/cpu.max", "max 100000\n");
        assert_eq!(control_group_limit(root.path()), None);
        assert_eq!(parse_quota_and_period("-1", "100000"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn the_smallest_quota_of_nested_version_2_groups_wins() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/cgroup", "0::/kubepods/pod1/container\n");
        write(root.path(), "sys/fs/cgroup/kubepods/pod1/cpu.max", "150000 100000\n");
        write(
            root.path(),
            "sys/fs/cgroup/kubepods/pod1/container/cpu.max",
            "400000 100000\n",
        );
        assert_eq!(control_group_limit(root.path()), Some(1.5));
        assert!(available_threads(root.path()) <= 2);
    }

    #[test]
    fn a_version_1_quota_is_read_from_the_mount_when_the_group_is_not_visible() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "proc/self/cgroup",
            "11:memory:/x\n4:cpu,cpuacct:/docker/abc\n",
        );
        write(root.path(), "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
        write(root.path(), "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(control_group_limit(root.path()), Some(0.5));
        let environment = thread_environment(root.path());
        assert_eq!(
            environment,
            [
                ("RAYON_NUM_THREADS", "1".to_owned()),
                ("CANDLE_NUM_THREADS", "1".to_owned())
            ]
        );
    }
}
