//! Compiles mlx-c against the headers of a wheel.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Compiles every file of mlx-c and returns the object files.
pub(crate) fn mlx_c(sources: &Path, mlx_include: &Path) -> Result<Vec<PathBuf>> {
    let folder = sources.join("mlx/c");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("cpp")))
        .collect();
    files.sort();

    build()
        .cpp(true)
        .std("c++20")
        // The standard library that the wheels were linked with, whatever the compiler prefers.
        .cpp_link_stdlib("stdc++")
        .flag("-include")
        .flag("shims/mlx_c_prelude.h")
        .include(sources)
        .include(mlx_include)
        .files(&files)
        .try_compile_intermediates()
        .map_err(|error| {
            format!(
                "mlx-c did not compile; it needs a C++20 compiler, GCC 12 or newer (on Debian and \
                 Ubuntu: apt install g++), or the one that CXX names\n{error}"
            )
        })
}

/// Assembles the trampolines and puts them and the objects of mlx-c into the archive to link.
pub(crate) fn archive(trampolines: &Path, objects: &[PathBuf]) -> Result<()> {
    build()
        .file(trampolines)
        .objects(objects)
        .try_compile("mlxc")
        .map_err(|error| format!("the trampolines to MLX did not assemble\n{error}"))?;
    println!("cargo::rustc-link-lib=dylib=stdc++");
    Ok(())
}

fn build() -> cc::Build {
    let mut build = cc::Build::new();
    build
        // The code is not ours to mend.
        .warnings(false)
        .flag("-w")
        // A thin layer over MLX: the same for debug and release, without a word for debuggers.
        .opt_level(1)
        .debug(false)
        // Nobody but the Rust bindings calls mlx-c, so programs need not export it.
        .flag("-fvisibility=hidden");
    build
}
