//! Which boards are metered.

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use super::{super::MeterError, board::Board};

/// Boards by UUID, else by `CUDA_VISIBLE_DEVICES`, else all.
///
/// Indices are taken as NVML's, that is PCI order; CUDA numbers boards the same way with
/// `CUDA_DEVICE_ORDER=PCI_BUS_ID`, and in any case if they are all of one product.
pub(super) fn boards(
    nvml: &'static Nvml,
    uuids: Option<&[String]>,
    cuda_visible_devices: Option<&str>,
) -> Result<Vec<Board>, MeterError> {
    let boards = match (uuids, cuda_visible_devices) {
        (Some(uuids), _) => uuids
            .iter()
            .map(|uuid| by_name(nvml, uuid))
            .collect::<Result<Vec<_>, _>>()?,
        (None, Some(list)) => visible(list)
            .map(|name| by_name(nvml, name))
            .collect::<Result<Vec<_>, _>>()?,
        (None, None) => {
            let count = nvml
                .device_count()
                .map_err(|source| device_error("device count", source))?;
            (0..count)
                .map(|index| by_name(nvml, &index.to_string()))
                .collect::<Result<Vec<_>, _>>()?
        }
    };
    if boards.is_empty() {
        return Err(MeterError::NoDevices);
    }
    Ok(boards)
}

/// CUDA ignores everything from the first invalid entry on; `-1` is the usual way to hide all devices.
fn visible(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .take_while(|name| !name.is_empty() && !name.starts_with('-') && *name != "NoDevFiles")
}

fn by_name(nvml: &'static Nvml, name: &str) -> Result<Board, MeterError> {
    if name.starts_with("MIG-") {
        return Err(MeterError::MigDevice { uuid: name.to_owned() });
    }
    let device = match name.parse::<u32>() {
        Ok(index) => nvml.device_by_index(index),
        Err(_) => nvml
            .device_by_uuid(name)
            .or_else(|error| by_prefix(nvml, name).ok_or(error)),
    };
    device
        .and_then(Board::open)
        .map_err(|source| device_error(name, source))
}

/// CUDA accepts the beginning of a UUID, if no other board's begins the same.
fn by_prefix(nvml: &'static Nvml, prefix: &str) -> Option<Device<'static>> {
    let devices = (0..nvml.device_count().ok()?).filter_map(|index| nvml.device_by_index(index).ok());
    let mut matching = devices.filter(|device| device.uuid().is_ok_and(|uuid| uuid.starts_with(prefix)));
    let first = matching.next()?;
    matching.next().is_none().then_some(first)
}

fn device_error(device: &str, source: NvmlError) -> MeterError {
    MeterError::Device {
        device: device.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_hidden_device_list_selects_nothing_instead_of_all() {
        for hidden in ["", "-1", "NoDevFiles"] {
            assert_eq!(visible(hidden).count(), 0, "{hidden:?}");
        }
        assert_eq!(visible("GPU-a, 1,-1,2").collect::<Vec<_>>(), ["GPU-a", "1"]);
    }
}
