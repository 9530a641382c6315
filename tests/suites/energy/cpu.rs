//! CPU energy on fake powercap trees and a fake `/proc`.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lem_runner::energy::{
    CounterDomain, CpuMetering, EnergySource, GpuMetering, Meter, MeterConfig, MeterReport, RaplMeter,
    UnavailableReason, open,
};
use tempfile::TempDir;

/// Range of Intel's server parts, µJ.
const RANGE: u64 = 262_143_328_850;

struct Tree(TempDir);

impl Tree {
    fn new(zones: &[(&str, &str)]) -> Self {
        let tree = Self(TempDir::new().expect("a temporary folder"));
        for (zone, name) in zones {
            let folder = tree.0.path().join(zone);
            fs::create_dir(&folder).expect("a zone");
            fs::write(folder.join("name"), format!("{name}\n")).expect("its name");
            fs::write(folder.join("max_energy_range_uj"), format!("{RANGE}\n")).expect("its range");
            tree.set(zone, 1_000_000);
        }
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn energy(&self, zone: &str) -> PathBuf {
        self.path().join(zone).join("energy_uj")
    }

    /// Replaces the value at once, as a read of the kernel's file is never half a number.
    fn set(&self, zone: &str, microjoules: u64) {
        let next = self.path().join(zone).join("next");
        fs::write(&next, format!("{microjoules}\n")).expect("a value");
        fs::rename(next, self.energy(zone)).expect("a value");
    }

    fn meter(&self) -> RaplMeter {
        RaplMeter::open(self.path(), Duration::from_millis(5), "node-a").expect("a package")
    }

    fn config(&self, cpu: CpuMetering) -> MeterConfig {
        MeterConfig {
            gpu: GpuMetering::Off,
            cpu,
            powercap_root: self.path().to_owned(),
            energy_socket: None,
            ..MeterConfig::from_environment("node-a")
        }
    }
}

fn ids(report: &MeterReport) -> Vec<&str> {
    report
        .readings
        .iter()
        .map(|reading| reading.counter.id.as_str())
        .collect()
}

#[test]
fn packages_and_memory_are_counted_and_their_parts_never() {
    let tree = Tree::new(&[
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "uncore"),
        ("intel-rapl:0:2", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:1:0", "dram"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
        ("intel-rapl-mmio:0:0", "dram"),
    ]);
    fs::create_dir(tree.path().join("intel-rapl")).expect("the control type");
    let mut meter = tree.meter();
    meter.start().expect("starts");
    for zone in ["intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl:2"] {
        tree.set(zone, 6_000_000);
    }
    tree.set("intel-rapl-mmio:0", 900_000_000);
    tree.set("intel-rapl:0:2", 2_000_000);
    let report = meter.stop();
    assert_eq!(
        ids(&report),
        ["package-0", "package-0/dram", "package-1", "package-1/dram"]
    );
    assert_eq!(report.joules(CounterDomain::Cpu), Some(10.0));
    assert_eq!(report.joules(CounterDomain::Dram), Some(1.0));
    assert!(
        report
            .readings
            .iter()
            .all(|reading| reading.source == EnergySource::Rapl)
    );
}

#[test]
fn a_nested_tree_as_the_kernel_holds_it_is_counted_like_the_flat_one() {
    let tree = Tree::new(&[]);
    for (folder, name) in [
        ("intel-rapl/intel-rapl:0", "package-0"),
        ("intel-rapl/intel-rapl:0/intel-rapl:0:0", "core"),
        ("intel-rapl/intel-rapl:0/intel-rapl:0:1", "dram"),
        ("intel-rapl-mmio/intel-rapl-mmio:0", "package-0"),
    ] {
        let folder = tree.path().join(folder);
        fs::create_dir_all(&folder).expect("a zone");
        fs::write(folder.join("name"), name).expect("its name");
        fs::write(folder.join("energy_uj"), "1000000").expect("a value");
    }
    // As /sys/class/powercap shows the same zones a second time.
    std::os::unix::fs::symlink("intel-rapl/intel-rapl:0", tree.path().join("intel-rapl:0")).expect("a link");
    let mut meter = tree.meter();
    meter.start().expect("starts");
    fs::write(tree.path().join("intel-rapl/intel-rapl:0/energy_uj"), "3000000").expect("a value");
    fs::write(
        tree.path().join("intel-rapl-mmio/intel-rapl-mmio:0/energy_uj"),
        "9000000",
    )
    .expect("a value");
    let report = meter.stop();
    assert_eq!(ids(&report), ["package-0", "package-0/dram"]);
    assert_eq!(report.joules(CounterDomain::Cpu), Some(2.0));
}

#[test]
fn a_package_that_only_mmio_shows_is_still_counted() {
    let tree = Tree::new(&[("intel-rapl-mmio:0", "package-0")]);
    assert_eq!(tree.meter().describe().len(), 1);
}

#[test]
fn dies_of_one_socket_are_summed() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0-die-0"), ("intel-rapl:1", "package-0-die-1")]);
    let mut meter = tree.meter();
    meter.start().expect("starts");
    tree.set("intel-rapl:0", 2_000_000);
    tree.set("intel-rapl:1", 3_000_000);
    assert_eq!(meter.stop().joules(CounterDomain::Cpu), Some(3.0));
}

#[test]
fn an_amd_tree_has_packages_and_says_that_it_has_no_memory_domain() {
    let tree = Tree::new(&[
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "package-1"),
    ]);
    let mut opened = open(&tree.config(CpuMetering::Auto)).expect("opens");
    opened.meter.start().expect("starts");
    tree.set("intel-rapl:0", 5_000_000);
    let report = opened.meter.stop();
    assert_eq!(ids(&report), ["package-0", "package-1"]);
    assert_eq!(report.joules(CounterDomain::Cpu), Some(4.0));
    assert!(report.absent.iter().any(|absent| absent.domain == CounterDomain::Dram));
}

#[test]
fn a_counter_that_wraps_in_a_window_is_followed() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0")]);
    tree.set("intel-rapl:0", RANGE - 1_000_000);
    let mut meter = tree.meter();
    meter.start().expect("starts");
    for value in [500_000, 3_000_000, 6_000_000] {
        tree.set("intel-rapl:0", value);
        thread::sleep(Duration::from_millis(100));
    }
    let report = meter.stop();
    let truth = 7.0;
    let joules = report.joules(CounterDomain::Cpu).expect("a reading");
    assert!((joules - truth).abs() < 1e-3, "{joules} {truth}");
    let reading = &report.readings[0];
    let (start, end) = reading.start_raw.zip(reading.end_raw).expect("raw values");
    assert!(
        (end.joules - start.joules - truth).abs() < 1e-3,
        "the raw values are unwrapped, so that readings can be joined"
    );
}

#[test]
fn a_file_that_vanishes_in_the_window_is_null_with_a_reason() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")]);
    let mut meter = tree.meter();
    meter.start().expect("starts");
    fs::remove_file(tree.energy("intel-rapl:0")).expect("it was there");
    tree.set("intel-rapl:1", 2_000_000);
    thread::sleep(Duration::from_millis(30));
    let report = meter.stop();
    assert_eq!(report.readings[0].joules, None);
    assert_eq!(
        report.readings[0].unavailable.as_ref().map(|why| why.reason),
        Some(UnavailableReason::Vanished)
    );
    assert_eq!(report.readings[1].joules, Some(1.0));
    assert_eq!(
        report.joules(CounterDomain::Cpu),
        None,
        "a sum without one socket would be a smaller number, not a sum"
    );
}

#[test]
fn nonsense_in_a_file_is_null_with_a_reason() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0")]);
    fs::write(tree.energy("intel-rapl:0"), "soon\n").expect("a value");
    let mut meter = tree.meter();
    meter.start().expect("starts");
    let report = meter.stop();
    assert_eq!(
        report.readings[0].unavailable.as_ref().map(|why| why.reason),
        Some(UnavailableReason::Malformed)
    );
}

/// Makes a counter unreadable: by mode, or for root by a kernel file that nobody may read.
fn lock(tree: &Tree, zone: &str) -> bool {
    let path = tree.energy(zone);
    fs::remove_file(&path).expect("it was there");
    std::os::unix::fs::symlink("/proc/sys/vm/compact_memory", &path).expect("a link");
    if fs::read(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        return true;
    }
    fs::remove_file(&path).expect("it was there");
    fs::write(&path, "1").expect("a value");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("a mode");
    fs::read(&path).is_err()
}

#[test]
fn an_unreadable_counter_says_what_to_do_and_automatic_metering_estimates() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0")]);
    if !lock(&tree, "intel-rapl:0") {
        println!("skipped: nothing is unreadable for this user");
        return;
    }
    let mut opened = open(&tree.config(CpuMetering::Rapl)).expect("opens");
    opened.meter.start().expect("starts");
    let report = opened.meter.stop();
    let why = report.readings[0].unavailable.as_ref().expect("a reason");
    assert_eq!(why.reason, UnavailableReason::PermissionDenied);
    assert!(why.message.contains("CAP_DAC_READ_SEARCH"), "{}", why.message);

    let opened = open(&tree.config(CpuMetering::Auto)).expect("opens");
    assert_eq!(opened.meter.describe()[0].source, EnergySource::Estimate);
    assert_eq!(
        opened.meter.absent()[0].unavailable.reason,
        UnavailableReason::PermissionDenied
    );
}

#[test]
fn without_powercap_automatic_metering_estimates_and_rapl_is_null_with_a_reason() {
    let tree = Tree::new(&[]);
    let opened = open(&tree.config(CpuMetering::Auto)).expect("opens");
    assert_eq!(opened.meter.describe()[0].source, EnergySource::Estimate);
    let mut opened = open(&tree.config(CpuMetering::Rapl)).expect("opens");
    opened.meter.start().expect("starts");
    let report = opened.meter.stop();
    assert_eq!(report.joules(CounterDomain::Cpu), None);
    let reasons = report
        .absent
        .iter()
        .map(|absent| (absent.domain, absent.unavailable.reason));
    let expected = [CounterDomain::Gpu, CounterDomain::Cpu, CounterDomain::Dram];
    let why = [
        UnavailableReason::Off,
        UnavailableReason::NoPowercap,
        UnavailableReason::NoPowercap,
    ];
    let mut found: Vec<_> = reasons.collect();
    found.sort_by_key(|(domain, _)| *domain);
    assert_eq!(found, expected.into_iter().zip(why).collect::<Vec<_>>());
}

#[test]
fn an_estimate_follows_the_load_and_is_labelled() {
    let proc = TempDir::new().expect("a temporary folder");
    let stat = |busy: u64, idle: u64| {
        fs::write(
            proc.path().join("next"),
            format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n"),
        )
        .expect("a value");
        fs::rename(proc.path().join("next"), proc.path().join("stat")).expect("a value");
    };
    stat(0, 0);
    let tree = Tree::new(&[]);
    let mut opened = open(&MeterConfig {
        cpu_tdp_watts: Some(100.0),
        proc_root: proc.path().to_owned(),
        sample_interval: Duration::from_mins(1),
        ..tree.config(CpuMetering::Estimate)
    })
    .expect("opens");
    assert!(opened.meter.describe()[0].detail.contains("100 W as configured"));
    opened.meter.start().expect("starts");
    thread::sleep(Duration::from_millis(200));
    stat(50, 50);
    let report = opened.meter.stop();
    let reading = &report.readings[0];
    assert_eq!(reading.source, EnergySource::Estimate);
    let watts = reading.joules.expect("a value") / reading.duration_seconds;
    assert!((watts - 21.25).abs() < 0.5, "{watts} W at half load");
    assert!((reading.uncertainty_joules.expect("an error bar") / reading.joules.expect("a value") - 0.5).abs() < 1e-9);
}

#[test]
fn metering_that_is_off_reports_that_it_is_off() {
    let tree = Tree::new(&[("intel-rapl:0", "package-0")]);
    let mut opened = open(&tree.config(CpuMetering::Off)).expect("opens");
    opened.meter.start().expect("starts");
    let report = opened.meter.stop();
    assert!(report.readings.is_empty());
    let reasons: Vec<_> = report.absent.iter().map(|absent| absent.unavailable.reason).collect();
    assert_eq!(reasons, [UnavailableReason::Off; 3]);
}
