//! The patches that a pod writes, each with the tests that fence it: by the `Runner`'s UID, and by the pod's. Pure.

use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use lem_crds::{RunnerStatus, runner::EarlierRecord};
use serde_json::{Value, json};

/// What every write of this pod is fenced by.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// UID of the `Runner`: another one of the same name is not ours.
    pub(super) runner_uid: String,
    /// UID of this pod.
    pub(super) pod_uid: String,
    /// Records of the pods before.
    pub(super) earlier: Vec<EarlierRecord>,
    /// Version of the `Runner` that was read, while its status is not yet ours.
    pub(super) unclaimed: Option<String>,
}

impl Claim {
    /// The whole status, written only if the `Runner` is still ours, or still as it was when we read it.
    pub(super) fn report(&self, status: &RunnerStatus, heartbeat: jiff::Timestamp) -> Patch {
        let whole = RunnerStatus {
            pod_uid: self.pod_uid.clone(),
            heartbeat: Some(heartbeat),
            earlier: self.earlier.clone(),
            ..status.clone()
        };
        let mut operations = self.fence();
        operations.push(add(["status"], json!(whole)));
        Patch(operations)
    }

    /// Only that this pod lives.
    pub(super) fn heartbeat(&self, heartbeat: jiff::Timestamp) -> Patch {
        let mut operations = self.fence();
        operations.push(add(["status", "heartbeat"], json!(heartbeat)));
        Patch(operations)
    }

    fn fence(&self) -> Vec<PatchOperation> {
        let ours = match &self.unclaimed {
            Some(version) => test(["metadata", "resourceVersion"], json!(version)),
            None => test(["status", "podUid"], json!(self.pod_uid)),
        };
        vec![test(["metadata", "uid"], json!(self.runner_uid)), ours]
    }
}

fn test<const N: usize>(path: [&str; N], value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(path),
        value,
    })
}

fn add<const N: usize>(path: [&str; N], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(unclaimed: Option<&str>) -> Claim {
        Claim {
            runner_uid: "runner".to_owned(),
            pod_uid: "pod-b".to_owned(),
            earlier: Vec::new(),
            unclaimed: unclaimed.map(ToOwned::to_owned),
        }
    }

    fn applies(patch: &Patch, runner: &Value) -> bool {
        json_patch::patch(&mut runner.clone(), patch).is_ok()
    }

    #[test]
    fn a_report_reaches_only_the_runner_that_is_still_this_pods() {
        let report = claim(None).report(&RunnerStatus::default(), jiff::Timestamp::UNIX_EPOCH);
        let ours = json!({"metadata": {"uid": "runner", "resourceVersion": "9"}, "status": {"podUid": "pod-b"}});
        assert!(applies(&report, &ours));
        let namesake = json!({"metadata": {"uid": "another"}, "status": {"podUid": "pod-b"}});
        let successor = json!({"metadata": {"uid": "runner"}, "status": {"podUid": "pod-c"}});
        assert!(!applies(&report, &namesake) && !applies(&report, &successor));
    }

    #[test]
    fn the_first_report_takes_over_only_what_was_read() {
        let report = claim(Some("7")).report(&RunnerStatus::default(), jiff::Timestamp::UNIX_EPOCH);
        let as_read = json!({"metadata": {"uid": "runner", "resourceVersion": "7"}, "status": {"podUid": "pod-a"}});
        let moved_on = json!({"metadata": {"uid": "runner", "resourceVersion": "8"}});
        assert!(applies(&report, &as_read) && !applies(&report, &moved_on));
    }
}
