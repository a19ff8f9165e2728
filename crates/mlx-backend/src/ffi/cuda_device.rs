//! What MLX does not tell of a CUDA device.

use std::ffi::{CStr, c_char, c_int, c_void};

/// The sizes of a device that a kernel which holds all of it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CudaDevice {
    /// As 9 of `sm_90`.
    pub(crate) major: i32,
    /// As 0 of `sm_90`.
    pub(crate) minor: i32,
    pub(crate) multiprocessors: i32,
    /// Bytes of shared memory that a block can have.
    pub(crate) shared_bytes: i32,
}

/// Returns the device of MLX, the first one; `None` where there is no driver.
#[cfg(target_os = "linux")]
pub(crate) fn cuda_device() -> Option<CudaDevice> {
    // Numbers of `CUdevice_attribute` in cuda.h.
    const MULTIPROCESSORS: c_int = 16;
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    const SHARED_BYTES: c_int = 97;
    type Init = extern "C" fn(u32) -> c_int;
    type DeviceGet = extern "C" fn(*mut c_int, c_int) -> c_int;
    type GetAttribute = extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

    let function = |name: &CStr| {
        // SAFETY: both arguments are C strings, and a library that stays open is looked into.
        let found = unsafe {
            let library = dlopen(c"libcuda.so.1".as_ptr(), RTLD_LAZY);
            if library.is_null() { library } else { dlsym(library, name.as_ptr()) }
        };
        (!found.is_null()).then_some(found)
    };
    let (init, get) = (function(c"cuInit")?, function(c"cuDeviceGet")?);
    let attribute = function(c"cuDeviceGetAttribute")?;
    // SAFETY: these are the declarations of cuda.h.
    let (init, get, attribute) = unsafe {
        (
            std::mem::transmute::<*mut c_void, Init>(init),
            std::mem::transmute::<*mut c_void, DeviceGet>(get),
            std::mem::transmute::<*mut c_void, GetAttribute>(attribute),
        )
    };
    let mut device = 0;
    if init(0) != 0 || get(&raw mut device, 0) != 0 {
        return None;
    }
    let number = |which| {
        let mut number = 0;
        (attribute(&raw mut number, which, device) == 0).then_some(number)
    };
    Some(CudaDevice {
        major: number(MAJOR)?,
        minor: number(MINOR)?,
        multiprocessors: number(MULTIPROCESSORS)?,
        shared_bytes: number(SHARED_BYTES)?,
    })
}

/// There is no CUDA elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn cuda_device() -> Option<CudaDevice> {
    None
}

#[cfg(target_os = "linux")]
pub(super) const RTLD_LAZY: c_int = 1;

#[cfg(target_os = "linux")]
unsafe extern "C" {
    pub(super) fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    pub(super) fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
