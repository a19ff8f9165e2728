//! Compiles kernels beside the thread of MLX, and puts them where MLX looks before it compiles one: so
//! the first token waits for none, and the next process finds them.
//!
//! MLX looks for `NAME_HASH.ptx` in its cache, where `HASH` is of the text it would compile, and for the
//! names of functions in `NAME_HASH.txt`. What it does not find it compiles itself, so nothing here has
//! to succeed. What is compiled here is the same kernel with fewer headers, in a fraction of the time.
//!
//! Source: mlx 0.32.2, `backend/cuda/custom_kernel.cpp` and `jit_module.cpp`.

use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs,
    path::{Path, PathBuf},
    ptr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{
    before_exit,
    cuda_device::{CudaDevice, RTLD_LAZY, cuda_device, dlopen, dlsym},
};

/// A kernel as MLX would make it.
#[derive(Debug)]
pub(super) struct Text {
    /// What MLX calls it.
    pub(super) name: String,
    /// What MLX would compile, up to the hash of it.
    pub(super) of_mlx: String,
    /// What is compiled instead; its function has the same `name` and arguments.
    pub(super) ours: String,
}

/// Includes and names that our text needs in place of MLX's headers.
pub(super) const PRELUDE: &str = "#include <cuda_bf16.h>
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long long;
struct Shape { int sizes[10]; __device__ int operator[](int i) const { return sizes[i]; } };
";

type Job = (Text, Sender<()>);

/// Starts compiling, after all that was started before. What is returned is closed when MLX will find
/// the kernel, or nothing more is to be waited for.
pub(super) fn start(text: Text) -> Receiver<()> {
    static JOBS: OnceLock<Option<Mutex<Sender<Job>>>> = OnceLock::new();
    let (done, wait) = channel();
    let jobs = JOBS.get_or_init(|| {
        let compiler = Compiler::find()?;
        let (sender, jobs) = channel::<Job>();
        before_exit(stop);
        let work = move || {
            for (text, done) in jobs {
                let working = WORKING.lock().unwrap_or_else(PoisonError::into_inner);
                if !STOPS.load(Ordering::Relaxed) {
                    compiler.provide(&text);
                }
                drop((working, done));
            }
        };
        let thread = thread::Builder::new().name("cuda-compile".to_owned()).spawn(work);
        thread.ok().map(|_| Mutex::new(sender))
    });
    if let Some(jobs) = jobs {
        let _ = jobs.lock().unwrap_or_else(PoisonError::into_inner).send((text, done));
    }
    wait
}

/// Held while the compiler works, which must not end with the process in the middle of that.
static WORKING: Mutex<()> = Mutex::new(());
static STOPS: AtomicBool = AtomicBool::new(false);

extern "C" fn stop() {
    STOPS.store(true, Ordering::Relaxed);
    drop(WORKING.lock());
}

/// NVRTC, which MLX has opened.
#[derive(Clone, Copy, Debug)]
struct Nvrtc {
    create: CreateProgram,
    compile: CompileProgram,
    size: GetSize,
    get: GetBytes,
    log_size: GetSize,
    log: GetBytes,
    destroy: extern "C" fn(*mut Program) -> c_int,
}

type Program = *mut c_void;
type CreateProgram = extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type CompileProgram = extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type GetSize = extern "C" fn(Program, *mut usize) -> c_int;
type GetBytes = extern "C" fn(Program, *mut c_char) -> c_int;

#[derive(Debug)]
struct Compiler {
    nvrtc: Nvrtc,
    options: Vec<CString>,
    cache: PathBuf,
}

impl Compiler {
    /// Returns the compiler and where MLX keeps what it has compiled; `None` without CUDA, or if something
    /// is not where it should be.
    fn find() -> Option<Self> {
        let (device, library) = (cuda_device()?, mlx_sys::linux::load().ok()?);
        let cache = cache_folder()?;
        fs::create_dir_all(&cache).ok()?;
        Some(Self { nvrtc: Nvrtc::find()?, options: options(device, library)?, cache })
    }

    /// Sees to it that MLX finds the kernel.
    fn provide(&self, text: &Text) {
        let module = format!("{}_{:x}", text.name, hash(text.of_mlx.as_bytes()));
        let path = self.cache.join(format!("{module}.ptx"));
        if path.exists() {
            return;
        }
        let made = self.nvrtc.compile(&text.ours, &self.options).and_then(|code| {
            let names = format!("mlx::core::cu::{0}\t{0}\n", text.name);
            // Nobody looks at the names before the code is there.
            write(&path.with_extension("txt"), names.as_bytes())?;
            write(&path, &code)
        });
        if let Err(why) = made {
            tracing::debug!(kernel = text.name, why, "not compiled ahead");
        }
    }
}

/// Writes a file that is there as a whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&part);
        format!("{}: {error}", path.display())
    })
}

/// As `ptx_cache_dir` of MLX.
fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("MLX_PTX_CACHE_DIR") {
        return Some(folder.into());
    }
    let of_temporary = ["TMPDIR", "TMP", "TEMP", "TEMPDIR"].into_iter().find_map(env::var_os);
    let temporary = of_temporary.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    // SAFETY: a text of MLX is made, read and freed here; MLX is open, and says what it is on any thread.
    let version = unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&raw mut text);
        let version = (status == 0)
            .then(|| CStr::from_ptr(mlx_sys::mlx_string_data(text)).to_string_lossy().into_owned());
        mlx_sys::mlx_string_free(text);
        version
    };
    Some(temporary.join("mlx").join(version?).join("ptx"))
}

/// The options that MLX compiles with, as far as our text needs them.
fn options(device: CudaDevice, library: &Path) -> Option<Vec<CString>> {
    let CudaDevice { major, minor, .. } = device;
    let special = if major >= 9 { "a" } else { "" };
    let packages = library.parent()?.parent()?.parent()?.join("nvidia");
    let installed = ["cu13", "cuda_runtime"].map(|name| packages.join(name).join("include"));
    let variables = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let toolkits = variables.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    let mut folders = installed.into_iter().chain(toolkits.map(|kit| kit.join("include")));
    let include = folders.find(|folder| folder.join("cuda_bf16.h").exists())?;
    let all = [
        "--device-as-default-execution-space".to_owned(),
        format!("--gpu-architecture=sm_{major}{minor}{special}"),
        format!("--include-path={}", include.to_str()?),
    ];
    all.into_iter().map(|option| CString::new(option).ok()).collect()
}

impl Nvrtc {
    fn find() -> Option<Self> {
        // SAFETY: the arguments are C strings, and a library that MLX keeps open is looked into.
        let library = unsafe {
            let names = [c"libnvrtc.so.13", c"libnvrtc.so.12"];
            let mut found = names.map(|name| dlopen(name.as_ptr(), RTLD_LAZY)).into_iter();
            found.find(|library| !library.is_null())?
        };
        let function = |name: &CStr| {
            // SAFETY: the library stays open, and the name is a C string.
            let found = unsafe { dlsym(library, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        // SAFETY: these are the declarations of nvrtc.h.
        unsafe {
            Some(Self {
                create: std::mem::transmute::<*mut c_void, CreateProgram>(function(
                    c"nvrtcCreateProgram",
                )?),
                compile: std::mem::transmute::<*mut c_void, CompileProgram>(function(
                    c"nvrtcCompileProgram",
                )?),
                size: std::mem::transmute::<*mut c_void, GetSize>(function(c"nvrtcGetCUBINSize")?),
                get: std::mem::transmute::<*mut c_void, GetBytes>(function(c"nvrtcGetCUBIN")?),
                log_size: std::mem::transmute::<*mut c_void, GetSize>(function(
                    c"nvrtcGetProgramLogSize",
                )?),
                log: std::mem::transmute::<*mut c_void, GetBytes>(function(c"nvrtcGetProgramLog")?),
                destroy: std::mem::transmute::<*mut c_void, extern "C" fn(*mut Program) -> c_int>(
                    function(c"nvrtcDestroyProgram")?,
                ),
            })
        }
    }

    /// Returns the machine code of `source`, or what the compiler says of it.
    fn compile(&self, source: &str, options: &[CString]) -> Result<Vec<u8>, String> {
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = ptr::null_mut();
        let (none, name) = (ptr::null(), c"kernel.cu");
        let status = (self.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, none, none);
        if status != 0 {
            return Err(format!("status {status}"));
        }
        let count = c_int::try_from(options.len()).unwrap_or(0);
        let made = match (self.compile)(program, count, options.as_ptr()) {
            0 => bytes(program, self.size, self.get),
            _ => bytes(program, self.log_size, self.log)
                .and_then(|log| Err(String::from_utf8_lossy(&log).into_owned())),
        };
        (self.destroy)(&raw mut program);
        made
    }
}

fn bytes(program: Program, size: GetSize, get: GetBytes) -> Result<Vec<u8>, String> {
    let mut count = 0;
    let status = size(program, &raw mut count);
    let mut all = vec![0u8; count];
    match status | get(program, all.as_mut_ptr().cast()) {
        0 => Ok(all),
        status => Err(format!("status {status}")),
    }
}

/// `std::hash<std::string>` of the C++ library that MLX is linked with.
fn hash(bytes: &[u8]) -> usize {
    const SEED: usize = 0xc70f_6907;
    // SAFETY: as many bytes as there are are read.
    unsafe { hash_bytes(bytes.as_ptr().cast(), bytes.len(), SEED) }
}

// SAFETY: the declaration in libstdc++'s bits/hash_bytes.h, which its users' code calls.
unsafe extern "C" {
    #[link_name = "_ZSt11_Hash_bytesPKvmm"]
    fn hash_bytes(bytes: *const c_void, count: usize, seed: usize) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `std::hash<std::string>` of a program in C++, as far as it fits into 64 bits.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn texts_are_hashed_as_by_cpp() {
        assert_eq!(hash(b"abstractllm"), 0xaf84_d118_f08b_5ac9);
        assert_eq!(hash(b""), 0x553e_9390_1e46_2a6e);
    }

    #[test]
    fn a_file_is_written_whole_and_leaves_no_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel.ptx");
        write(&path, b"code").unwrap();
        write(&path, b"other").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/kernel.ptx"), b"code").is_err());
    }

    #[test]
    fn options_name_the_architecture_and_the_headers() {
        let root = tempfile::tempdir().unwrap();
        let headers = root.path().join("nvidia/cu13/include");
        fs::create_dir_all(&headers).unwrap();
        fs::write(headers.join("cuda_bf16.h"), "").unwrap();
        let device = CudaDevice { major: 9, minor: 0, multiprocessors: 132, shared_bytes: 0 };
        let found = options(device, &root.path().join("mlx/lib/libmlx.so")).unwrap();
        let found: Vec<&str> = found.iter().map(|option| option.to_str().unwrap()).collect();
        assert_eq!(found[1], "--gpu-architecture=sm_90a");
        assert_eq!(found[2], format!("--include-path={}", headers.display()));
    }
}
