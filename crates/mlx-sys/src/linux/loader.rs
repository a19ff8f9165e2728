//! Opens `libmlx.so` when the first function of MLX is called.
//!
//! The build script writes a trampoline for each function of MLX that mlx-c calls, and tables of
//! their names and targets; see `build/trampolines.rs`. The first call of any of them comes here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{env, process, slice};

const FILE_NAME: &str = "libmlx.so";
const VERSION: &str = env!("MLX_SYS_VERSION");

/// Opens `libmlx.so` and returns where it was found.
///
/// The first of these that exists is taken, and it must then work:
///
/// 1. a `libmlx.so` that the program has already loaded, for instance through `LD_PRELOAD`;
/// 2. `libmlx.so` in a folder of `LD_LIBRARY_PATH`;
/// 3. `mlx/lib/libmlx.so` beside the program, which is where `pip install --target` puts it;
/// 4. the library that the program was built with;
/// 5. whatever the dynamic loader finds under that name.
///
/// Calling this is optional. Without it the first call of MLX does the same, and has nobody to
/// give an error to: the message goes to stderr and the process ends.
///
/// # Errors
/// If no library was found, it could not be opened, or it is not the version that the program was
/// built with. A later call returns the same error.
pub fn load() -> Result<&'static Path, LoadError> {
    opened().map(|opened| opened.path.as_path())
}

/// Why `libmlx.so` could not be opened.
#[derive(Debug, Clone)]
pub struct LoadError {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, reason } = self;
        let path = path.display();
        write!(f, "cannot use {path} as MLX {VERSION}: {reason} (see docs/mlx-on-linux.md)")
    }
}

impl std::error::Error for LoadError {}

/// Called by a trampoline whose target is not known yet.
#[unsafe(no_mangle)]
extern "C" fn mlx_sys_load() {
    if let Err(error) = load() {
        eprintln!("error: {error}");
        process::exit(1);
    }
}

/// A library that was opened, with all slots filled.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) library: Library,
}

/// Opens the library in the first call, and returns the outcome of that in every call.
pub(super) fn opened() -> Result<&'static Opened, LoadError> {
    static OUTCOME: OnceLock<Result<Opened, LoadError>> = OnceLock::new();
    OUTCOME.get_or_init(open).as_ref().map_err(LoadError::clone)
}

fn open() -> Result<Opened, LoadError> {
    let (path, library) = match dlopen(Path::new(FILE_NAME), RTLD_LAZY | RTLD_NOLOAD) {
        Ok(library) => (PathBuf::from(FILE_NAME), library),
        Err(_) => {
            let path = candidates().find(|path| path.is_file());
            let path = path.unwrap_or_else(|| FILE_NAME.into());
            match dlopen(&path, RTLD_LAZY) {
                Ok(library) => (path, library),
                Err(reason) => return Err(LoadError { path, reason }),
            }
        }
    };
    match fill_slots(library) {
        Ok(()) => Ok(Opened { path, library }),
        Err(reason) => Err(LoadError { path, reason }),
    }
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let search_path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let searched: Vec<_> = env::split_paths(&search_path)
        // The dynamic loader takes an empty entry for the current folder; nobody means that.
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.join(FILE_NAME))
        .collect();
    let beside = env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("mlx/lib").join(FILE_NAME)));
    searched.into_iter().chain(beside).chain([env!("MLX_SYS_LIBRARY").into()])
}

/// Looks every function up and lets the trampolines jump to them from now on.
fn fill_slots(library: Library) -> Result<(), String> {
    let found = version(library).ok_or("it does not tell its version")?;
    if found != VERSION {
        return Err(format!("it is version {found}"));
    }
    // SAFETY: the build script writes as many slots as it says, aligned, and nothing else writes
    // to them.
    let slots = unsafe { slice::from_raw_parts((&raw const mlx_sys_slots).cast(), mlx_sys_count) };
    let slots: &[AtomicPtr<c_void>] = slots;
    let mut targets = Vec::with_capacity(slots.len());
    let mut name = (&raw const mlx_sys_names).cast::<c_char>();
    for _ in slots {
        // SAFETY: the table has a C string for every slot, one after the other.
        let text = unsafe { CStr::from_ptr(name) };
        targets.push(symbol(library, text)?);
        // SAFETY: this is where the next string starts, or one past the end of the table.
        name = unsafe { name.add(text.count_bytes() + 1) };
    }
    // All or nothing: a slot that was not filled leads to `mlx_sys_load` and its error again.
    for (slot, target) in slots.iter().zip(targets) {
        slot.store(target, Ordering::Release);
    }
    Ok(())
}

/// The answer of `mlx::core::version()`.
fn version(library: Library) -> Option<String> {
    let function = symbol(library, c"_ZN3mlx4core7versionEv").ok()?;
    // SAFETY: this is the mangled name of a function without arguments that returns a C string.
    let function: extern "C" fn() -> *const c_char = unsafe { std::mem::transmute(function) };
    let text = function();
    // SAFETY: the string is a literal of the library, which is never closed.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// What `dlopen` returned. Never closed: the slots point into it.
#[derive(Clone, Copy)]
pub(super) struct Library(pub(super) *mut c_void);

// SAFETY: the dynamic loader takes its handles from any thread, and locks where it must.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

fn dlopen(path: &Path, flags: c_int) -> Result<Library, String> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: the path is a C string; the initialisers of the library are MLX's.
    let handle = unsafe { ffi::dlopen(path.as_ptr(), flags) };
    if handle.is_null() { Err(last_error()) } else { Ok(Library(handle)) }
}

fn symbol(library: Library, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the handle came from `dlopen` and is open, the name is a C string.
    let address = unsafe { ffi::dlsym(library.0, name.as_ptr()) };
    if address.is_null() { Err(last_error()) } else { Ok(address) }
}

fn last_error() -> String {
    // SAFETY: takes nothing, and returns null or a C string of this thread.
    let message = unsafe { ffi::dlerror() };
    if message.is_null() {
        return "the dynamic loader gives no reason".to_owned();
    }
    // SAFETY: not null, and valid until this thread calls the dynamic loader again.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

const RTLD_LAZY: c_int = 1;
const RTLD_NOLOAD: c_int = 4;

unsafe extern "C" {
    // Written by `build/trampolines.rs`.
    static mlx_sys_count: usize;
    static mlx_sys_names: [c_char; 0];
    static mlx_sys_slots: [AtomicPtr<c_void>; 0];
}

/// The dynamic loader, which is a part of glibc.
mod ffi {
    use super::{c_char, c_int, c_void};

    unsafe extern "C" {
        pub(super) fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
        pub(super) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
        pub(super) fn dlerror() -> *mut c_char;
    }
}
