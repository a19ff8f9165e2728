//! Finds a compiled MLX for Linux, and fetches it with pip when there is none yet.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;
use std::{fs, io, process};

use crate::{Result, cargo_env, user_env};

/// The MLX that mlx-c 0.7.0 is written for; it does not compile against the headers of 0.32.4.
pub(crate) const VERSION: &str = "0.32.2";

const VERSION_HEADER: &str = "include/mlx/version.h";
const LIBRARY: &str = "lib/libmlx.so";

/// A compiled MLX.
pub(crate) struct Mlx {
    pub(crate) include: PathBuf,
    pub(crate) library: PathBuf,
}

/// One of the distributions of MLX for Linux, with the hash of its wheel for each architecture.
struct Wheel {
    /// The value of `ABSTRACTLLM_MLX` that chooses it.
    variant: &'static str,
    package: &'static str,
    x86_64: &'static str,
    aarch64: &'static str,
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        variant: "cpu",
        package: "mlx-cpu",
        x86_64: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
        aarch64: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
    Wheel {
        variant: "cuda12",
        package: "mlx-cuda-12",
        x86_64: "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf",
        aarch64: "c794c697dcd28e00a51ce8813189ece1a8c62559de7cc5e27803cc591f55df05",
    },
    Wheel {
        variant: "cuda13",
        package: "mlx-cuda-13",
        x86_64: "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
        aarch64: "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    },
];

/// The MLX in `MLX_DIR`, or the wheel that `ABSTRACTLLM_MLX` names out of the cache folder.
pub(crate) fn locate() -> Result<Mlx> {
    let variant = user_env("ABSTRACTLLM_MLX");
    if let Some(dir) = user_env("MLX_DIR") {
        return check(Path::new(&dir)).map_err(|reason| format!("MLX_DIR={dir}: {reason}"));
    }
    let variant = variant.as_deref().unwrap_or("cpu");
    let Some(wheel) = WHEELS.iter().find(|wheel| wheel.variant == variant) else {
        let known = WHEELS.map(|wheel| wheel.variant).join(", ");
        return Err(format!("ABSTRACTLLM_MLX={variant} is not known; choose one of {known}"));
    };
    let architecture = cargo_env("CARGO_CFG_TARGET_ARCH");
    if !["x86_64", "aarch64"].contains(&architecture.as_str()) {
        return Err(format!(
            "there is no MLX wheel for {architecture}; set MLX_DIR to a folder that holds \
             include/ and lib/libmlx.so of MLX {VERSION}"
        ));
    }
    let cache = cache_dir()?;
    let unpacked = cache.join(format!("mlx-{VERSION}-{variant}-{architecture}"));
    if !unpacked.is_dir() {
        fetch(wheel, &architecture, &cache, &unpacked)?;
    }
    check(&unpacked.join("mlx")).map_err(|reason| {
        format!("{}: {reason}; delete this folder to have it fetched again", unpacked.display())
    })
}

fn cache_dir() -> Result<PathBuf> {
    let own = user_env("ABSTRACTLLM_CACHE").map(PathBuf::from);
    let xdg = user_env("XDG_CACHE_HOME").map(PathBuf::from);
    let home = user_env("HOME").map(PathBuf::from);
    let dir = own
        .or_else(|| xdg.map(|dir| dir.join("abstractllm")))
        .or_else(|| home.map(|dir| dir.join(".cache/abstractllm")))
        .ok_or("HOME is not set; set ABSTRACTLLM_CACHE to a folder that can hold MLX")?;
    // The loader opens the library by this path, from whatever folder the program runs in.
    if dir.is_absolute() {
        Ok(dir)
    } else {
        Err(format!("the cache folder {} must be an absolute path", dir.display()))
    }
}

/// Downloads and unpacks a wheel so that `unpacked` either is complete or does not exist.
///
/// The work happens in a folder of its own beside the result and ends with one rename, so that an
/// interrupted build leaves nothing that looks finished and two builds at once do no harm.
fn fetch(wheel: &Wheel, architecture: &str, cache: &Path, unpacked: &Path) -> Result<()> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let partial = cache.join(format!("partial-{}-{}", process::id(), since_epoch.as_nanos()));
    let complain =
        |error: io::Error| format!("cannot write to the cache folder {}: {error}", cache.display());
    fs::create_dir_all(&partial).map_err(complain)?;
    let outcome = download(wheel, architecture, &partial).and_then(|tree| {
        match fs::rename(&tree, unpacked) {
            // Another build was faster; its result is as good.
            Err(_) if unpacked.is_dir() => Ok(()),
            renamed => renamed.map_err(complain),
        }
    });
    // Leftovers cost space and nothing else, and the first failure is the one worth telling.
    let _ = fs::remove_dir_all(&partial);
    outcome
}

fn download(wheel: &Wheel, architecture: &str, partial: &Path) -> Result<PathBuf> {
    let complain = |error: io::Error| format!("cannot write to {}: {error}", partial.display());
    let Wheel { package, x86_64, aarch64, .. } = wheel;
    let requirements = partial.join("requirements.txt");
    fs::write(
        &requirements,
        format!("{package}=={VERSION} --hash=sha256:{x86_64} --hash=sha256:{aarch64}\n"),
    )
    .map_err(complain)?;

    let pip = python([
        "-m".as_ref(),
        "pip".as_ref(),
        "download".as_ref(),
        "--quiet".as_ref(),
        "--no-input".as_ref(),
        "--disable-pip-version-check".as_ref(),
        "--no-deps".as_ref(),
        "--require-hashes".as_ref(),
        "--only-binary=:all:".as_ref(),
        // The wheels hold no Python code for this build, so any Python may fetch them.
        "--python-version=3.12".as_ref(),
        format!("--platform=manylinux_2_35_{architecture}").as_ref(),
        "--dest".as_ref(),
        partial.as_os_str(),
        "--requirement".as_ref(),
        requirements.as_os_str(),
    ])?;
    let stderr = String::from_utf8_lossy(&pip.stderr);
    if stderr.contains("No module named pip") {
        return Err(without("pip"));
    }
    if stderr.contains("DO NOT MATCH THE HASHES") {
        return Err(format!(
            "the {package} {VERSION} that pip downloaded is not the one this crate was written \
             for, so it was thrown away; check the package index that pip is configured with\n{}",
            stderr.trim()
        ));
    }
    if !pip.status.success() {
        return Err(format!(
            "pip could not download {package} {VERSION}; check the network and pip's \
             configuration, or set MLX_DIR to a folder that holds include/ and lib/libmlx.so of \
             MLX {VERSION}\n{}",
            stderr.trim()
        ));
    }

    let wheel_file = fs::read_dir(partial)
        .map_err(complain)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip reported success but left no wheel")?;
    let tree = partial.join("tree");
    let unzip = python([
        "-m".as_ref(),
        "zipfile".as_ref(),
        "-e".as_ref(),
        wheel_file.as_os_str(),
        tree.as_os_str(),
    ])?;
    if !unzip.status.success() {
        let stderr = String::from_utf8_lossy(&unzip.stderr);
        return Err(format!("cannot unpack {}: {}", wheel_file.display(), stderr.trim()));
    }
    // Cargo would take what is younger than this run for changed and compile everything again.
    for file in [VERSION_HEADER, LIBRARY] {
        let file = fs::File::options().write(true).open(tree.join("mlx").join(file));
        file.and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH)).map_err(complain)?;
    }
    Ok(tree)
}

fn python<const N: usize>(arguments: [&std::ffi::OsStr; N]) -> Result<Output> {
    Command::new("python3").args(arguments).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => without("python3"),
        _ => format!("cannot run python3: {error}"),
    })
}

fn without(tool: &str) -> String {
    format!(
        "{tool} was not found, and `python3 -m pip` is what fetches MLX {VERSION}; install it (on \
         Debian and Ubuntu: apt install python3-pip), or set MLX_DIR to a folder that holds \
         include/ and lib/libmlx.so of MLX {VERSION}"
    )
}

/// Takes `dir` for what it should be, if its headers are of the right version.
fn check(dir: &Path) -> Result<Mlx> {
    let dir = dir.canonicalize().map_err(|error| error.to_string())?;
    let mlx = Mlx { include: dir.join("include"), library: dir.join(LIBRARY) };
    let header = dir.join(VERSION_HEADER);
    println!("cargo::rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header)
        .map_err(|error| format!("no MLX here, {} cannot be read: {error}", header.display()))?;
    let part = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("#define MLX_VERSION_")?.strip_prefix(name))
            .unwrap_or_default()
            .trim()
    };
    let found = [part("MAJOR "), part("MINOR "), part("PATCH ")].join(".");
    if found != VERSION {
        return Err(format!("this is MLX {found}; mlx-c 0.7.0 compiles with MLX {VERSION} only"));
    }
    if !mlx.library.is_file() {
        return Err(format!("no MLX here, {} is missing", mlx.library.display()));
    }
    println!("cargo::rerun-if-changed={}", mlx.library.display());
    Ok(mlx)
}
