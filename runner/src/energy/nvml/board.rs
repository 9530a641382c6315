//! The NVML calls on one device, each failing by itself.

use std::{ffi::OsString, path::Path, time::Duration};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::Clock,
    enums::device::{DeviceArchitecture, SampleValue},
    error::NvmlError,
    structs::device::FieldId,
    sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT,
};
use serde::{Deserialize, Serialize};

use super::super::{
    clock::monotonic_seconds,
    reading::{Unavailable, UnavailableReason},
};

/// Power fields were seen to be not ready when they were read more often than this (Zeus, `monitor/power.py`).
const INSTANT_POWER_REFRESH: Duration = Duration::from_millis(50);

/// One physical board.
pub(super) struct Board {
    pub(super) device: Device<'static>,
    pub(super) uuid: String,
    pub(super) name: String,
    /// `NVML_FI_DEV_POWER_INSTANT` works; else only `nvmlDeviceGetPowerUsage`, which may be a mean of 1 s.
    pub(super) has_instant_power: bool,
    /// The power that is read is a mean of 1 s.
    pub(super) averages_power: bool,
}

/// Counter and power read next to each other.
pub(super) struct Poll {
    /// Middle of the counter read, monotonic s.
    pub(super) at: f64,
    /// Length of the counter read, s.
    pub(super) took: f64,
    /// Counter, J.
    pub(super) joules: Result<f64, NvmlError>,
    /// Power, W.
    pub(super) watts: Result<f64, NvmlError>,
}

/// What identifies a board and its settings, for the provenance of a result. Each field is absent if the driver does
/// not tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceProvenance {
    /// Product name.
    pub product: Option<String>,
    /// UUID.
    pub uuid: String,
    /// Number of its device file on the node, the same in every container.
    pub minor_number: Option<u32>,
    /// VBIOS version.
    pub vbios: Option<String>,
    /// Driver version.
    pub driver: Option<String>,
    /// CUDA version of the driver, e.g. `12.8`.
    pub cuda_driver: Option<String>,
    /// Power cap, W.
    pub power_limit_watts: Option<f64>,
    /// Power cap that the board boots with, W.
    pub power_limit_default_watts: Option<f64>,
    /// Application clock of the SMs, MHz.
    pub application_sm_clock_megahertz: Option<u32>,
    /// Application clock of the memory, MHz.
    pub application_memory_clock_megahertz: Option<u32>,
    /// ECC switched on.
    pub ecc_enabled: Option<bool>,
    /// Persistence mode switched on.
    pub persistence_enabled: Option<bool>,
    /// MIG mode switched on.
    pub mig_enabled: Option<bool>,
    /// Device memory, bytes.
    pub total_memory_bytes: Option<u64>,
}

/// Loads the library and keeps it for the life of the process.
///
/// NVML counts its users itself and boards are borrowed from the library by the sampler thread, so the library is
/// leaked on purpose instead of being shut down; that costs a few kB per meter.
pub(super) fn load(library: Option<&Path>) -> Result<&'static Nvml, NvmlError> {
    let path: Option<OsString> = library.map(|path| path.as_os_str().to_owned());
    let nvml = match &path {
        Some(path) => Nvml::builder().lib_path(path).init()?,
        None => Nvml::init()?,
    };
    Ok(Box::leak(Box::new(nvml)))
}

/// Whether `nvmlDeviceGetPowerUsage` gives a mean of 1 s: on Ampere except GA100, and on what is newer (nvml.h). A board
/// that does not say what it is may do so.
fn usage_is_averaged(architecture: Option<&DeviceArchitecture>, product: &str) -> bool {
    use DeviceArchitecture as Of;
    match architecture {
        Some(Of::Kepler | Of::Maxwell | Of::Pascal | Of::Volta | Of::Turing) => false,
        Some(Of::Ampere) => !["A100", "A30"]
            .iter()
            .any(|ga100| product.split([' ', '-']).any(|word| word == *ga100)),
        _ => true,
    }
}

impl Board {
    pub(super) fn open(device: Device<'static>) -> Result<Self, NvmlError> {
        let uuid = device.uuid()?;
        let name = device.name().unwrap_or_else(|_| "unknown NVIDIA device".to_owned());
        let mut board = Self {
            device,
            uuid,
            name,
            has_instant_power: true,
            averages_power: false,
        };
        board.has_instant_power = board.offers_instant_power();
        board.averages_power =
            !board.has_instant_power && usage_is_averaged(board.device.architecture().ok().as_ref(), &board.name);
        Ok(board)
    }

    /// The field may not be ready at once (`NoData`), but never will be if it is not supported.
    fn offers_instant_power(&self) -> bool {
        (0..3).any(|_| match self.instant_watts() {
            Err(NvmlError::NoData) => {
                std::thread::sleep(INSTANT_POWER_REFRESH);
                false
            }
            answer => answer.is_ok(),
        })
    }

    /// Counter and power now; two calls.
    pub(super) fn poll(&self) -> Poll {
        let before = monotonic_seconds();
        let joules = self
            .device
            .total_energy_consumption()
            .map(|millijoules| millijoules as f64 / 1e3);
        let after = monotonic_seconds();
        Poll {
            at: f64::midpoint(before, after),
            took: after - before,
            joules,
            watts: self.watts(),
        }
    }

    fn watts(&self) -> Result<f64, NvmlError> {
        if self.has_instant_power {
            self.instant_watts()
        } else {
            self.device.power_usage().map(|milliwatts| f64::from(milliwatts) / 1e3)
        }
    }

    fn instant_watts(&self) -> Result<f64, NvmlError> {
        let values = self.device.field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])?;
        let sample = values.into_iter().next().ok_or(NvmlError::NoData)??;
        let milliwatts = match sample.value? {
            SampleValue::U32(value) => f64::from(value),
            SampleValue::U64(value) => value as f64,
            SampleValue::I64(value) => value as f64,
            SampleValue::F64(value) => value,
        };
        // Polled faster than it is refreshed, the field reads zero on some drivers; a board never draws nothing.
        if milliwatts > 0.0 {
            Ok(milliwatts / 1e3)
        } else {
            Err(NvmlError::NoData)
        }
    }

    pub(super) fn provenance(&self, nvml: &Nvml) -> DeviceProvenance {
        let watts = |milliwatts: Result<u32, NvmlError>| milliwatts.ok().map(|value| f64::from(value) / 1e3);
        DeviceProvenance {
            product: self.device.name().ok(),
            uuid: self.uuid.clone(),
            minor_number: self.device.minor_number().ok(),
            vbios: self.device.vbios_version().ok(),
            driver: nvml.sys_driver_version().ok(),
            cuda_driver: nvml
                .sys_cuda_driver_version()
                .ok()
                .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
            power_limit_watts: watts(self.device.power_management_limit()),
            power_limit_default_watts: watts(self.device.power_management_limit_default()),
            application_sm_clock_megahertz: self.device.applications_clock(Clock::SM).ok(),
            application_memory_clock_megahertz: self.device.applications_clock(Clock::Memory).ok(),
            ecc_enabled: self.device.is_ecc_enabled().ok().map(|state| state.currently_enabled),
            persistence_enabled: self.device.is_in_persistent_mode().ok(),
            mig_enabled: self.device.mig_mode().ok().map(|mode| mode.current != 0),
            total_memory_bytes: self.device.memory_info().ok().map(|memory| memory.total),
        }
    }
}

/// The reason behind an NVML error.
pub(super) fn unavailable(what: &str, error: &NvmlError) -> Unavailable {
    let reason = match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => {
            UnavailableReason::NotSupported
        }
        NvmlError::NoPermission | NvmlError::OperatingSystem => UnavailableReason::PermissionDenied,
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
            UnavailableReason::NoNvmlLibrary
        }
        NvmlError::NotFound | NvmlError::InvalidArg => UnavailableReason::NoDevices,
        _ => UnavailableReason::DeviceFailed,
    };
    Unavailable::new(reason, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_boards_since_ampere_but_for_ga100_show_means_of_a_second() {
        for (architecture, product, averaged) in [
            (Some(DeviceArchitecture::Pascal), "Tesla P40", false),
            (Some(DeviceArchitecture::Turing), "Tesla T4", false),
            (Some(DeviceArchitecture::Ampere), "NVIDIA A100-SXM4-80GB", false),
            (Some(DeviceArchitecture::Ampere), "NVIDIA A30", false),
            (Some(DeviceArchitecture::Ampere), "NVIDIA RTX A3000", true),
            (Some(DeviceArchitecture::Ampere), "NVIDIA A10", true),
            (Some(DeviceArchitecture::Hopper), "NVIDIA H100 80GB HBM3", true),
            (Some(DeviceArchitecture::Unknown), "NVIDIA X", true),
            (None, "Tesla P40", true),
        ] {
            assert_eq!(usage_is_averaged(architecture.as_ref(), product), averaged, "{product}");
        }
    }
}
