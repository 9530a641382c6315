//! Which powercap zones exist and which of them are counted.
//!
//! `psys ⊃ package ⊃ {core, uncore}`, and dram stands next to its package: packages and dram are counted, the others
//! never. The same package may be shown through `intel-rapl` (MSR) and `intel-rapl-mmio`: the former is taken.
//!
//! A tree is flat, as `/sys/class/powercap` shows it, or nested, as `/sys/devices/virtual/powercap` holds it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::super::reading::{CounterDomain, Unavailable, UnavailableReason};

/// A zone that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) domain: CounterDomain,
    /// `package-0`, `package-0-die-1`, `package-0/dram`.
    pub(crate) id: String,
    pub(super) folder: PathBuf,
    pub(crate) range_microjoules: u64,
}

impl Zone {
    /// The counter, µJ.
    pub(crate) fn read(&self) -> Result<u64, Unavailable> {
        let path = self.folder.join("energy_uj");
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        text.trim().parse().map_err(|_| {
            Unavailable::new(
                UnavailableReason::Malformed,
                format!("{} holds {text:?}", path.display()),
            )
        })
    }
}

/// The zones below a powercap tree that are counted, each once.
pub(crate) fn discover(root: &Path) -> Result<Vec<Zone>, Unavailable> {
    let names = zone_names(root)?;
    let mut counted: BTreeMap<String, (bool, Zone)> = BTreeMap::new();
    for (zone, Named { name, folder }) in &names {
        let Some((domain, id)) = identify(zone, name, &names) else {
            continue;
        };
        let range = fs::read_to_string(folder.join("max_energy_range_uj")).ok();
        let zone_found = Zone {
            domain,
            id: id.clone(),
            folder: folder.clone(),
            range_microjoules: range
                .and_then(|range| range.trim().parse().ok())
                .unwrap_or(u64::from(u32::MAX)),
        };
        let is_mmio = zone.starts_with("intel-rapl-mmio");
        match counted.get(&id) {
            Some((existing_is_mmio, _)) if is_mmio || !existing_is_mmio => {}
            _ => drop(counted.insert(id, (is_mmio, zone_found))),
        }
    }
    if counted.is_empty() {
        return Err(no_powercap(root, "no package zone"));
    }
    Ok(counted.into_values().map(|(_, zone)| zone).collect())
}

/// A zone before anyone asks what it covers.
struct Named {
    /// Content of its `name` file.
    name: String,
    folder: PathBuf,
}

/// Deepest tree: control type, package, part of a package.
const DEPTH: u32 = 3;

/// Zone folder name → the zone.
fn zone_names(root: &Path) -> Result<BTreeMap<String, Named>, Unavailable> {
    let mut zones = BTreeMap::new();
    add_zones(root, DEPTH, &mut zones).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => unreadable(root, &error),
        _ => no_powercap(root, &error.to_string()),
    })?;
    Ok(zones)
}

fn add_zones(folder: &Path, depth: u32, zones: &mut BTreeMap<String, Named>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Links such as `subsystem` lead out of the tree.
        let Some(zone) = entry
            .file_name()
            .into_string()
            .ok()
            .filter(|name| name.starts_with("intel-rapl"))
        else {
            continue;
        };
        let folder = entry.path();
        if depth > 1 {
            // One that cannot be listed has no zones to count.
            let _ = add_zones(&folder, depth - 1, zones);
        }
        // A control type (`intel-rapl`) has no colon, a zone (`intel-rapl:0`) and a subzone (`intel-rapl:0:1`) have.
        if zone.contains(':')
            && let Ok(name) = fs::read_to_string(folder.join("name"))
        {
            let name = name.trim().to_owned();
            zones.insert(zone, Named { name, folder });
        }
    }
    Ok(())
}

fn identify(zone: &str, name: &str, names: &BTreeMap<String, Named>) -> Option<(CounterDomain, String)> {
    if name.starts_with("package") {
        return Some((CounterDomain::Cpu, name.to_owned()));
    }
    if name == "dram" {
        let (parent, _) = zone.rsplit_once(':')?;
        let package = names.get(parent).map_or(parent, |package| package.name.as_str());
        return Some((CounterDomain::Dram, format!("{package}/dram")));
    }
    None
}

fn no_powercap(root: &Path, why: &str) -> Unavailable {
    Unavailable::new(
        UnavailableReason::NoPowercap,
        format!(
            "no RAPL in {}: {why}; virtual machines have none, and containers see none without the node energy agent",
            root.display()
        ),
    )
}

/// Why a file cannot be read, and what to do.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Unavailable {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Unavailable::new(
            UnavailableReason::PermissionDenied,
            format!(
                "{path} is readable by root only (CVE-2020-8694): run as root, add CAP_DAC_READ_SEARCH, on a cluster install the node energy agent, or set cpu: Estimate"
            ),
        ),
        io::ErrorKind::NotFound => Unavailable::new(UnavailableReason::Vanished, format!("{path} is gone")),
        _ => Unavailable::new(UnavailableReason::DeviceFailed, format!("{path}: {error}")),
    }
}
