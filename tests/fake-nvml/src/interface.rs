//! The C functions of NVML that the meter uses, with the signatures of nvml.h.
#![expect(
    unsafe_code,
    reason = "a C interface: exported symbols and caller-owned out pointers"
)]

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    sync::Mutex,
};

use nvml_wrapper_sys::bindings as nvml;
use rustix::time::{ClockId, clock_gettime};

use crate::{Board, MACHINE_VARIABLE, Machine};

type Return = nvml::nvmlReturn_t;

const SUCCESS: Return = nvml::nvmlReturn_enum_NVML_SUCCESS;
const UNINITIALIZED: Return = nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
const INVALID_ARGUMENT: Return = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const NOT_SUPPORTED: Return = nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const NOT_FOUND: Return = nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
const INSUFFICIENT_SIZE: Return = nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const GPU_IS_LOST: Return = nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;

struct Handle {
    board: Board,
    initialised: f64,
}

/// The boards of the latest `nvmlInit_v2`. Handles of earlier ones stay valid: they are never freed.
static BOARDS: Mutex<Option<Vec<&'static Handle>>> = Mutex::new(None);

fn monotonic_seconds() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn read_machine() -> Option<Machine> {
    let path = std::env::var_os(MACHINE_VARIABLE)?;
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn boards<T>(then: impl FnOnce(&[&'static Handle]) -> Result<T, Return>) -> Result<T, Return> {
    let boards = BOARDS.lock().map_err(|_| UNINITIALIZED)?;
    then(boards.as_deref().ok_or(UNINITIALIZED)?)
}

/// Runs one call on a board and stores its value.
///
/// # Safety
/// `device` came from this library and `out` is valid for writes.
unsafe fn answer<T>(
    function: &str,
    device: nvml::nvmlDevice_t,
    out: *mut T,
    value: impl FnOnce(&Board, f64, f64) -> T,
) -> Return {
    // SAFETY: by contract a pointer that `give` made from a leaked Handle, or null.
    let Some(handle) = (unsafe { device.cast::<Handle>().as_ref() }) else {
        return INVALID_ARGUMENT;
    };
    let now = monotonic_seconds();
    if handle
        .board
        .fail_after_seconds
        .is_some_and(|after| now >= handle.initialised + after)
    {
        return GPU_IS_LOST;
    }
    if handle.board.not_supported.iter().any(|name| name == function) {
        return NOT_SUPPORTED;
    }
    // SAFETY: by contract.
    unsafe { out.write(value(&handle.board, now, handle.initialised)) };
    SUCCESS
}

/// Copies a string with its terminator.
///
/// # Safety
/// `out` is valid for `length` bytes.
unsafe fn give_text(text: &str, out: *mut c_char, length: c_uint) -> Return {
    if text.len() + 1 > length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the length was checked.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), out, text.len());
        out.add(text.len()).write(0);
    }
    SUCCESS
}

fn code(result: Result<(), Return>) -> Return {
    result.err().unwrap_or(SUCCESS)
}

/// Reads the machine file.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    let Some(machine) = read_machine() else {
        return nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
    };
    let initialised = monotonic_seconds();
    let handles = machine
        .devices
        .into_iter()
        .map(|board| &*Box::leak(Box::new(Handle { board, initialised })))
        .collect();
    let Ok(mut boards) = BOARDS.lock() else {
        return UNINITIALIZED;
    };
    *boards = Some(handles);
    SUCCESS
}

/// Does nothing: other users of the process go on.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    SUCCESS
}

/// A fixed text.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(_result: Return) -> *const c_char {
    c"fake NVML".as_ptr()
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, length: c_uint) -> Return {
    // SAFETY: passed on.
    unsafe { give_text("570.00.fake", out, length) }
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(out: *mut c_int) -> Return {
    // SAFETY: by contract.
    unsafe { out.write(12_080) };
    SUCCESS
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> Return {
    code(boards(|boards| {
        // SAFETY: by contract.
        unsafe { out.write(boards.len() as c_uint) };
        Ok(())
    }))
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, out: *mut nvml::nvmlDevice_t) -> Return {
    code(boards(|boards| {
        let handle = *boards.get(index as usize).ok_or(INVALID_ARGUMENT)?;
        // SAFETY: by contract.
        unsafe { out.write(std::ptr::from_ref(handle).cast_mut().cast()) };
        Ok(())
    }))
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, out: *mut nvml::nvmlDevice_t) -> Return {
    // SAFETY: by contract a C string.
    let wanted = unsafe { CStr::from_ptr(uuid) }.to_bytes();
    code(boards(|boards| {
        let handle = *boards
            .iter()
            .find(|handle| handle.board.uuid.as_bytes() == wanted)
            .ok_or(NOT_FOUND)?;
        // SAFETY: by contract.
        unsafe { out.write(std::ptr::from_ref(handle).cast_mut().cast()) };
        Ok(())
    }))
}

macro_rules! text {
    ($($name:ident => $value:expr;)*) => {$(
        /// # Safety
        /// As in nvml.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvml::nvmlDevice_t, out: *mut c_char, length: c_uint) -> Return {
            let mut text = String::new();
            let value: fn(&Board) -> String = $value;
            // SAFETY: passed on.
            let result = unsafe { answer(stringify!($name), device, &raw mut text, |board, _, _| value(board)) };
            if result != SUCCESS {
                return result;
            }
            // SAFETY: passed on.
            unsafe { give_text(&text, out, length) }
        }
    )*};
}

text! {
    nvmlDeviceGetUUID => |board| board.uuid.clone();
    nvmlDeviceGetName => |board| board.name.clone();
    nvmlDeviceGetVbiosVersion => |_| "96.00.FA.KE.00".to_owned();
}

macro_rules! value {
    ($($name:ident: $type:ty => $value:expr;)*) => {$(
        /// # Safety
        /// As in nvml.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvml::nvmlDevice_t, out: *mut $type) -> Return {
            // SAFETY: passed on.
            unsafe { answer(stringify!($name), device, out, $value) }
        }
    )*};
}

value! {
    nvmlDeviceGetTotalEnergyConsumption: c_ulonglong => Board::counter_millijoules;
    nvmlDeviceGetPowerUsage: c_uint => |board, now, _| board.average_milliwatts(now);
    nvmlDeviceGetUtilizationRates: nvml::nvmlUtilization_t
        => |_, _, _| nvml::nvmlUtilization_t { gpu: 90, memory: 40 };
    nvmlDeviceGetCurrentClocksThrottleReasons: c_ulonglong => |board, _, _| board.throttle_reason_bits;
    nvmlDeviceGetPowerManagementLimit: c_uint => |board, _, _| (board.power_limit_watts * 1e3) as c_uint;
    nvmlDeviceGetPowerManagementDefaultLimit: c_uint => |_, _, _| 700_000;
    nvmlDeviceGetEnforcedPowerLimit: c_uint => |board, _, _| (board.power_limit_watts * 1e3) as c_uint;
    nvmlDeviceGetPersistenceMode: nvml::nvmlEnableState_t => |_, _, _| 1;
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: nvml::nvmlDevice_t, out: *mut c_uint) -> Return {
    let mut number = None;
    let mut seen: c_uint = 0;
    let value = |board: &Board, _: f64, _: f64| {
        number = board.minor_number;
        number.unwrap_or_default()
    };
    // SAFETY: passed on, with a place of this function's own.
    let answered = unsafe { answer("nvmlDeviceGetMinorNumber", device, &raw mut seen, value) };
    match (answered, number) {
        (SUCCESS, Some(number)) => {
            // SAFETY: by contract.
            unsafe { out.write(number) };
            SUCCESS
        }
        (SUCCESS, None) => NOT_SUPPORTED,
        (failed, _) => failed,
    }
}

macro_rules! keyed_value {
    ($($name:ident: $type:ty => $value:expr;)*) => {$(
        /// # Safety
        /// As in nvml.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvml::nvmlDevice_t, _kind: c_uint, out: *mut $type) -> Return {
            // SAFETY: passed on.
            unsafe { answer(stringify!($name), device, out, $value) }
        }
    )*};
}

keyed_value! {
    nvmlDeviceGetTemperature: c_uint => |board, now, _| 40 + (board.waveform.watts(now) / 20.0) as c_uint;
    nvmlDeviceGetClockInfo: c_uint => |_, _, _| 1_980;
    nvmlDeviceGetApplicationsClock: c_uint => |_, _, _| 1_980;
    nvmlDeviceGetViolationStatus: nvml::nvmlViolationTime_t => |board, now, _| nvml::nvmlViolationTime_t {
        referenceTime: (now * 1e6) as c_ulonglong,
        violationTime: (now * board.power_violation_share * 1e9) as c_ulonglong,
    };
}

macro_rules! pair {
    ($($name:ident => $value:expr;)*) => {$(
        /// # Safety
        /// As in nvml.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(device: nvml::nvmlDevice_t, now: *mut c_uint, pending: *mut c_uint) -> Return {
            // SAFETY: passed on, twice.
            unsafe {
                answer(stringify!($name), device, now, $value);
                answer(stringify!($name), device, pending, $value)
            }
        }
    )*};
}

pair! {
    nvmlDeviceGetMigMode => |board, _, _| c_uint::from(board.mig_enabled);
    nvmlDeviceGetEccMode => |_, _, _| 1;
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvml::nvmlDevice_t,
    out: *mut nvml::nvmlMemory_v2_t,
) -> Return {
    let value = |board: &Board, _: f64, _: f64| nvml::nvmlMemory_v2_t {
        version: 2,
        total: board.memory_total_bytes,
        reserved: 0,
        free: board.memory_total_bytes - board.memory_used_bytes,
        used: board.memory_used_bytes,
    };
    // SAFETY: passed on.
    unsafe { answer("nvmlDeviceGetMemoryInfo_v2", device, out, value) }
}

/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvml::nvmlDevice_t,
    count: c_int,
    values: *mut nvml::nvmlFieldValue_t,
) -> Return {
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: by contract `count` values.
        let field = unsafe { &mut *values.add(index) };
        let mut milliwatts = 0_u32;
        field.nvmlReturn = match field.fieldId {
            // SAFETY: passed on.
            nvml::field_id::NVML_FI_DEV_POWER_INSTANT => unsafe {
                answer("POWER_INSTANT", device, &raw mut milliwatts, |board, now, _| {
                    board.instant_milliwatts(now)
                })
            },
            // SAFETY: passed on.
            nvml::field_id::NVML_FI_DEV_POWER_AVERAGE => unsafe {
                answer("POWER_AVERAGE", device, &raw mut milliwatts, |board, now, _| {
                    board.average_milliwatts(now)
                })
            },
            _ => NOT_SUPPORTED,
        };
        field.valueType = nvml::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
        field.timestamp = (monotonic_seconds() * 1e6) as i64;
        field.value = nvml::nvmlValue_t { uiVal: milliwatts };
    }
    let mut ignored = ();
    // SAFETY: passed on.
    unsafe { answer("nvmlDeviceGetFieldValues", device, &raw mut ignored, |_, _, _| ()) }
}

/// # Safety
/// As `nvmlDeviceGetComputeRunningProcesses_v3` in nvml.h.
unsafe fn processes(
    function: &str,
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvml::nvmlProcessInfo_t,
    list: fn(&Board) -> Vec<u32>,
) -> Return {
    let mut running = Vec::new();
    // SAFETY: passed on.
    let result = unsafe { answer(function, device, &raw mut running, |board, _, _| list(board)) };
    if result != SUCCESS {
        return result;
    }
    // SAFETY: by contract.
    let room = unsafe { count.replace(running.len() as c_uint) } as usize;
    if room < running.len() {
        return INSUFFICIENT_SIZE;
    }
    for (index, pid) in running.into_iter().enumerate() {
        let info = nvml::nvmlProcessInfo_t {
            pid,
            usedGpuMemory: 1 << 30,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        };
        // SAFETY: by contract room for `room` entries.
        unsafe { out.add(index).write(info) };
    }
    SUCCESS
}

/// The reader and the foreign processes.
///
/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvml::nvmlProcessInfo_t,
) -> Return {
    let list = |board: &Board| {
        let mut running = board.foreign_processes.clone();
        running.push(std::process::id());
        running
    };
    // SAFETY: passed on.
    unsafe { processes("nvmlDeviceGetComputeRunningProcesses_v3", device, count, out, list) }
}

/// None.
///
/// # Safety
/// As in nvml.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvml::nvmlProcessInfo_t,
) -> Return {
    // SAFETY: passed on.
    unsafe {
        processes("nvmlDeviceGetGraphicsRunningProcesses_v3", device, count, out, |_| {
            Vec::new()
        })
    }
}
