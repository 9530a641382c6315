//! CPU energy through the node energy agent's socket, against counters that move.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lem_crds::agent::{CounterAnswer, SOCKET};
use lem_runner::{
    agent::{self, AgentOptions, READ_INTERVAL},
    energy::{
        AgentMeter, CounterDomain, CpuMetering, EnergySource, GpuMetering, Meter, MeterConfig, MeterReport,
        UnavailableReason, open,
    },
};
use lem_tests::powercap::Powercap;
use tempfile::TempDir;
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(20);

/// A node: its counters and its agent.
struct Node {
    agent: Option<Agent>,
    /// Ends before its folder goes.
    powercap: Powercap,
    folder: TempDir,
}

struct Agent {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Node {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let zones = [
            ("intel-rapl/intel-rapl:0", "package-0", 12.0),
            ("intel-rapl/intel-rapl:0/intel-rapl:0:0", "dram", 3.0),
            ("intel-rapl/intel-rapl:1", "package-1", 8.0),
        ];
        let powercap = Powercap::new(&folder.path().join("powercap"), &zones);
        let mut node = Self {
            folder,
            powercap,
            agent: None,
        };
        node.start_agent();
        node
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run").join(SOCKET)
    }

    fn start_agent(&mut self) {
        let options = AgentOptions {
            powercap_root: self.folder.path().join("powercap"),
            socket_folder: self.folder.path().join("run"),
            device_plugin_folder: None,
            node: "node-a".to_owned(),
            read_interval: READ_INTERVAL,
        };
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            let told = async {
                let _ = ended.await;
            };
            agent::run(&options, told).expect("an agent");
        });
        self.agent = Some(Agent { end, thread });
        self.meter();
    }

    fn end_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            let _ = agent.end.send(());
            agent.thread.join().expect("an end");
        }
    }

    /// A meter, once the agent answers.
    fn meter(&self) -> AgentMeter {
        until("an agent that answers", || {
            AgentMeter::open(&self.socket(), "node-a").ok()
        })
    }

    fn config(&self, cpu: CpuMetering) -> MeterConfig {
        MeterConfig {
            gpu: GpuMetering::Off,
            cpu,
            powercap_root: self.folder.path().join("nothing"),
            energy_socket: Some(self.socket()),
            ..MeterConfig::from_environment("node-a")
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end_agent();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn ask(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("an agent");
    stream.write_all(request).expect("a request");
    let mut answer = Vec::new();
    // One that is thrown out may be reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn reasons(report: &MeterReport) -> Vec<Option<UnavailableReason>> {
    let readings = report.readings.iter();
    readings
        .map(|reading| reading.unavailable.as_ref().map(|why| why.reason))
        .collect()
}

#[test]
fn energy_through_the_socket_is_that_of_the_counters_within_its_error_bar() {
    let node = Node::new();
    let mut meter = node.meter();
    let mut relative: Vec<f64> = Vec::new();
    let mut bars: Vec<f64> = Vec::new();
    for window in 0..8 {
        let seconds = 0.31 + 0.237 * f64::from(window);
        let start = meter.start().expect("starts");
        // Load that begins and ends with the window. Low enough that a fixture which a busy machine holds up for a second
        // shows no jump that no package can draw.
        node.powercap.draw(0, 60.0);
        thread::sleep(Duration::from_secs_f64(seconds));
        let end = meter.mark_end();
        node.powercap.draw(0, 12.0);
        let report = meter.stop();
        let ids: Vec<&str> = report
            .readings
            .iter()
            .map(|reading| reading.counter.id.as_str())
            .collect();
        assert_eq!(ids, ["package-0", "package-0/dram", "package-1"]);
        for (zone, reading) in report.readings.iter().enumerate() {
            assert_eq!(reading.source, EnergySource::Rapl);
            let truth = node
                .powercap
                .truth(zone, start.monotonic_seconds, end.monotonic_seconds);
            let (Some(joules), Some(bar)) = (reading.joules, reading.uncertainty_joules) else {
                panic!("window {window}, zone {zone}: {:?}", reading.unavailable);
            };
            assert!(
                truth.error(joules) <= bar,
                "window {window} of {seconds:.2} s, zone {zone}: {joules} ± {bar} J, truth {truth:?}"
            );
            relative.push((joules / truth.middle() - 1.0).abs());
            bars.push(bar / truth.middle());
            let [from, to] = [0.3, 0.8].map(|share| start.monotonic_seconds + share * seconds);
            let truth = node.powercap.truth(zone, from, to);
            let part = reading.cumulative.between(from, to).unwrap();
            // A fixture that is held up makes jumps that no package can, and a part rests on how fast energy can grow.
            let jump = 60.0 * 0.1;
            assert!(
                truth.error(part.joules) <= part.uncertainty_joules + jump,
                "part of window {window}, zone {zone}: {part:?}, truth {truth:?}"
            );
        }
    }
    relative.sort_by(f64::total_cmp);
    bars.sort_by(f64::total_cmp);
    println!(
        "windows of 0.3 to 2 s: median error {:.3} %, largest {:.3} %; median bar {:.2} %, largest {:.2} %",
        100.0 * relative[relative.len() / 2],
        100.0 * relative[relative.len() - 1],
        100.0 * bars[bars.len() / 2],
        100.0 * bars[bars.len() - 1],
    );
}

#[test]
fn an_agent_that_restarts_in_a_window_makes_it_null_and_the_next_one_right() {
    let mut node = Node::new();
    let mut meter = node.meter();
    meter.start().expect("starts");
    thread::sleep(Duration::from_millis(1200));
    node.end_agent();
    node.start_agent();
    let report = meter.stop();
    assert_eq!(
        reasons(&report),
        [Some(UnavailableReason::CounterReset); 3],
        "{report:?}"
    );
    assert_eq!(report.joules(CounterDomain::Cpu), None);

    // Before the meter has asked for the first time, too.
    meter.start().expect("starts");
    node.end_agent();
    node.start_agent();
    let report = meter.stop();
    assert_eq!(
        reasons(&report),
        [Some(UnavailableReason::CounterReset); 3],
        "{report:?}"
    );

    let lived = Instant::now();
    until("an agent that has read for a while", || {
        (lived.elapsed() > 5 * READ_INTERVAL).then_some(())
    });
    let start = meter.start().expect("starts");
    thread::sleep(Duration::from_millis(300));
    let end = meter.mark_end();
    let reading = &meter.stop().readings[0];
    let truth = node.powercap.truth(0, start.monotonic_seconds, end.monotonic_seconds);
    let bar = reading.uncertainty_joules.expect("an error bar");
    assert!(truth.error(reading.joules.expect("an energy")) <= bar);
}

#[test]
fn a_counter_that_is_reset_in_a_window_makes_it_null() {
    let node = Node::new();
    let mut meter = node.meter();
    meter.start().expect("starts");
    // Past the wrap that is near: what is left to the next one is more than any package draws.
    until("a wrap", || {
        let now = lem_runner::energy::Mark::now().monotonic_seconds;
        (node.powercap.truth(0, 0.0, now).lowest > 10.0).then_some(())
    });
    thread::sleep(2 * READ_INTERVAL);
    node.powercap.reset(0);
    thread::sleep(2 * READ_INTERVAL);
    let report = meter.stop();
    let why = report.readings[0].unavailable.as_ref().expect("a reason");
    assert_eq!(why.reason, UnavailableReason::CounterReset);
    assert!(why.message.contains("package-0"), "{}", why.message);
}

#[test]
fn an_agent_that_is_gone_at_the_end_is_named_and_nothing_is_made_up() {
    let mut node = Node::new();
    let mut meter = node.meter();
    meter.start().expect("starts");
    thread::sleep(Duration::from_millis(300));
    node.end_agent();
    let report = meter.stop();
    assert_eq!(reasons(&report), [Some(UnavailableReason::DeviceFailed); 3]);
    let why = report.readings[0].unavailable.as_ref().expect("a reason");
    assert!(why.message.contains("does not answer"), "{}", why.message);
}

#[test]
fn automatic_metering_takes_the_agent_and_estimates_without_one() {
    let mut node = Node::new();
    for cpu in [CpuMetering::Auto, CpuMetering::Rapl] {
        let opened = open(&node.config(cpu)).expect("opens");
        assert_eq!(opened.meter.describe()[0].source, EnergySource::Rapl, "{cpu:?}");
    }
    node.end_agent();
    let opened = open(&node.config(CpuMetering::Auto)).expect("opens");
    assert_eq!(opened.meter.describe()[0].source, EnergySource::Estimate);

    let mut opened = open(&node.config(CpuMetering::Rapl)).expect("opens");
    opened.meter.start().expect("starts");
    let report = opened.meter.stop();
    assert_eq!(report.joules(CounterDomain::Cpu), None);
    let why = report.absent.iter().find(|absent| absent.domain == CounterDomain::Cpu);
    let why = &why.expect("a reason").unavailable;
    assert!(why.message.contains("agent does not answer"), "{}", why.message);
}

#[test]
fn whoever_asks_often_gets_no_more_readings_than_the_agent_takes() {
    let node = Node::new();
    let begin = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    let after = (lem_runner::energy::Mark::now().monotonic_seconds * 1e9) as u64;
    while begin.elapsed() < Duration::from_secs(1) {
        let answer = ask(&node.socket(), format!("{{\"after\":{after}}}\n").as_bytes());
        let answer: CounterAnswer = serde_json::from_slice(&answer).expect("an answer");
        seen.extend(answer.readings.iter().map(|reading| reading[0].from));
    }
    let most = begin.elapsed().as_millis() / READ_INTERVAL.as_millis() + 1;
    assert!(seen.len() as u128 <= most, "{} readings, {most} are due", seen.len());
    let seen: Vec<u64> = seen.into_iter().collect();
    let closest = seen.windows(2).map(|pair| pair[1] - pair[0]).min();
    assert!(closest.is_some(), "it reads at all");
}

#[test]
fn clients_that_stall_or_talk_nonsense_keep_nobody_else_waiting() {
    let node = Node::new();
    let socket = node.socket();
    // More than the agent has connections for; some say half a request, some too much, none reads an answer.
    let stalled: Vec<UnixStream> = (0..200)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).expect("a connection");
            let words: &[u8] = if number % 2 == 0 { b"{\"after\"" } else { &[b'x'; 4096] };
            let _ = stream.write(words);
            stream
        })
        .collect();
    let begin = Instant::now();
    let answer = ask(&socket, b"{\"after\":0}\n");
    let waited = begin.elapsed();
    serde_json::from_slice::<CounterAnswer>(&answer).expect("an answer");
    println!("answered in {waited:?} beside {} stalled clients", stalled.len());
    for nonsense in [
        &b"\n"[..],
        b"{\"after\":-1}\n",
        b"{\"after\":1,\"write\":1}\n",
        &[0xff; 300],
    ] {
        let answer = String::from_utf8(ask(&socket, nonsense)).expect("words");
        assert!(answer.is_empty() || answer.contains("no request"), "{answer}");
    }
    drop(stalled);
    node.meter();
}
