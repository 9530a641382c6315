//! The results as a page. Pure.

use std::fmt::Write as _;

use crate::outcome::{Outcome, Requests, Thresholds, Who, growth};

/// A page of Markdown.
pub(crate) fn page(results: &[Outcome], limits: &Thresholds) -> String {
    let mut page = String::from(
        "# What a fleet costs\n\n\
         Written by `make bench-scale`; the limits are in `tests/scale-bench/thresholds.yaml`.\n\n\
         A real control plane (etcd, API server, controllers, scheduler) and two replicas of the real operator on one\n\
         machine. The nodes are played by kwok, five classes of GPUs in turn. Each process speaks the real mailbox with the\n\
         rights of its pod's account, writes records as large as real ones, and pauses where it would measure. 5 % of the\n\
         nodes crash in their second window, 2 % hang there, 1 % have a clock that is an hour ahead, and the fifth class is\n\
         throttled. Each figure is of one run.\n",
    );
    if let Some(first) = results.first() {
        let machine = &first.machine;
        let _ = write!(
            page,
            "\n{}, {} processors, Kubernetes {}, lem {}.\n",
            machine.processor, machine.processors, machine.kubernetes, machine.lem
        );
    }
    section(&mut page, "Fleets", results, Outcome::is_calm);
    section(
        &mut page,
        "The same while the replica that leads is killed",
        results,
        |one| !one.is_calm(),
    );
    requests(&mut page, results);
    tenfold(&mut page, results);
    let failings: Vec<String> = results
        .iter()
        .flat_map(|one| one.failings(limits))
        .chain(growth(results, limits))
        .collect();
    page.push_str("\n## Limits that were not kept\n\n");
    if failings.is_empty() {
        page.push_str("None.\n");
    }
    for failing in failings {
        let _ = writeln!(page, "- {failing}");
    }
    page
}

/// Bytes of watch events of a kind that are worth a line.
const LEAST_SHOWN: f64 = 512.0 * 1024.0;

type Cell = fn(&Outcome) -> String;

const ROWS: [(&str, Cell); 19] = [
    ("day", |one| one.machine.date.clone()),
    ("nodes at the same time", |one| one.asked.concurrent.clone()),
    ("kills of the leader", |one| one.kills.to_string()),
    ("phase at the end", |one| one.phase.clone()),
    ("nodes measured / failed", |one| {
        format!("{} / {}", one.measured_nodes, one.failed_nodes)
    }),
    ("processes begun, crashed, ended from outside", |one| {
        format!("{}, {}, {}", one.processes, one.crashed, one.ended)
    }),
    ("windows / lost / doubled", |one| {
        format!("{} / {} / {}", one.windows, one.lost, one.doubled)
    }),
    ("apply to final status, s", |one| format!("{:.1}", one.seconds)),
    ("of that measuring at the least, s", |one| {
        format!("{:.1}", one.measuring_seconds)
    }),
    ("last report to final status, s", |one| {
        format!("{:.2}", one.last_report_to_final_status_seconds)
    }),
    ("writes per process", |one| format!("{:.2}", one.writes_per_process())),
    ("requests per process", |one| {
        format!("{:.2}", one.requests_per_process())
    }),
    ("operator, peak resident memory, MiB", |one| {
        format!("{:.0}", one.operator_peak_resident_mebibytes)
    }),
    ("operator, processor time, s", |one| {
        format!("{:.1}", one.operator_cpu_seconds)
    }),
    ("operator, processors kept busy", |one| {
        format!("{:.3}", one.operator_cores())
    }),
    ("watch events, KiB per process", |one| {
        let bytes: f64 = one.watch_bytes.values().sum();
        format!("{:.0}", bytes / 1024.0 / f64::from(one.processes.max(1)))
    }),
    ("growth of the store, KiB per process", |one| {
        format!("{:.0}", one.store_bytes / 1024.0 / f64::from(one.processes.max(1)))
    }),
    ("bytes of the final status", |one| one.status_bytes.to_string()),
    ("classes in it", |one| one.classes.to_string()),
];

fn section(page: &mut String, title: &str, results: &[Outcome], of: impl Fn(&Outcome) -> bool) {
    let results: Vec<&Outcome> = results.iter().filter(|one| of(one)).collect();
    if results.is_empty() {
        return;
    }
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let each = |cell: &dyn Fn(&Outcome) -> String| results.iter().map(|one| cell(one)).collect::<Vec<_>>();
    let _ = write!(page, "\n## {title}\n\n");
    page.push_str(&row("nodes", each(&|one| one.asked.nodes.to_string())));
    page.push_str(&row("---", each(&|_| "---:".to_owned())));
    for (name, cell) in ROWS {
        page.push_str(&row(name, each(&|one| cell(one))));
    }
}

/// Requests per process by what they ask for, of the largest fleet.
fn requests(page: &mut String, results: &[Outcome]) {
    let calm = results.iter().filter(|one| one.is_calm());
    let Some(largest) = calm.max_by_key(|one| one.asked.nodes) else {
        return;
    };
    let _ = write!(
        page,
        "\n## Requests with {} nodes\n\n| of | verb | resource | count | per process |\n| --- | --- | --- | ---: | ---: |\n",
        largest.asked.nodes
    );
    let mut all: Vec<&Requests> = largest.requests.iter().collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.count));
    for one in all {
        let who = match one.who {
            Who::Operator => "operator",
            Who::Runners => "processes",
        };
        let _ = writeln!(
            page,
            "| {who} | {} | {} | {} | {:.3} |",
            one.verb,
            one.resource,
            one.count,
            one.count as f64 / f64::from(largest.processes.max(1))
        );
    }
    page.push_str("\n| watch events of | MiB |\n| --- | ---: |\n");
    let mut kinds: Vec<_> = largest
        .watch_bytes
        .iter()
        .filter(|(_, bytes)| **bytes > LEAST_SHOWN)
        .collect();
    kinds.sort_by(|one, other| other.1.total_cmp(one.1));
    for (kind, bytes) in kinds {
        let _ = writeln!(page, "| {kind} | {:.1} |", bytes / 1024.0 / 1024.0);
    }
}

/// etcd's quota where nobody has set another, in MiB.
const STORE_QUOTA: f64 = 2048.0;

/// Ten times the thousand nodes that the limits are for.
const NEXT_NODES: f64 = 10_000.0;

/// What the two largest fleets say of one with [`NEXT_NODES`].
fn tenfold(page: &mut String, results: &[Outcome]) {
    let mut calm: Vec<&Outcome> = results.iter().filter(|one| one.is_calm()).collect();
    calm.sort_by_key(|one| one.asked.nodes);
    let [.., smaller, largest] = calm.as_slice() else {
        return;
    };
    let nodes = |one: &Outcome| f64::from(one.asked.nodes);
    let line = |figure: &dyn Fn(&Outcome) -> f64| {
        let slope = (figure(largest) - figure(smaller)) / (nodes(largest) - nodes(smaller));
        figure(largest) + slope * (NEXT_NODES - nodes(largest))
    };
    let store = line(&|one| one.store_bytes / 1024.0 / 1024.0);
    let quota = if store > STORE_QUOTA { "above" } else { "below" };
    let _ = write!(
        page,
        "\n## What limits ten thousand\n\n\
         On straight lines through the two largest fleets, {NEXT_NODES:.0} nodes that are measured {} at a time would take:\n\n\
         - {store:.0} MiB in the store, which keeps every version of an object until it is compacted (every 5 minutes by default): {quota}\n  \
           its default quota of {STORE_QUOTA:.0} MiB. Each report writes a whole record, and with the managed fields of its writers.\n\
         - {:.0} MiB in the replica that leads: its caches and what each node came to.\n\
         - {:.0} s of processor time in the operator, and as many writes as {:.0} processes make; the API server, etcd and the\n  \
           controllers of Jobs take several times as much, and share this machine's processors with it.\n\
         - {:.0} minutes from apply to the final status, of which measuring takes {:.0}.\n\
         - one Role that names the mailboxes to come, at most 10,000 of them. It is written again when others come near.\n\n\
         Where the store is the limit, measure such a fleet by halves (`nodeSelector`), or fewer nodes at a time: the rate of writes goes with\n\
         `maxConcurrentNodes`.\n",
        largest.asked.concurrent,
        line(&|one| one.operator_peak_resident_mebibytes),
        line(&|one| one.operator_cpu_seconds),
        line(&|one| f64::from(one.processes)),
        line(&|one| one.seconds / 60.0),
        line(&|one| one.measuring_seconds / 60.0),
    );
}
