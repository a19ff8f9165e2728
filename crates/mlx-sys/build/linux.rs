//! The build on Linux: the wheel's MLX, mlx-c compiled against it, and trampolines between them.

use std::env;
use std::path::Path;

use crate::{Result, cargo_env, compile, sources, trampolines, wheel};

pub(crate) fn build() -> Result<()> {
    for file in ["build", "shims"] {
        println!("cargo::rerun-if-changed={file}");
    }
    if cargo_env("CARGO_CFG_TARGET_ENV") != "gnu" {
        return Err("the MLX wheels are built for glibc; choose a *-linux-gnu target".to_owned());
    }
    let out_dir = cargo_env("OUT_DIR");
    let out_dir = Path::new(&out_dir);

    let mlx = wheel::locate()?;
    let mlx_c = sources::mlx_c(&out_dir.join("mlx-c-sources"))?;
    let objects = compile::mlx_c(&mlx_c, &mlx.include)?;
    let trampolines = trampolines::write(&objects, &mlx.library, out_dir)?;
    compile::archive(&trampolines, &objects)?;

    // The loader looks here when no other MLX was put in its way.
    println!("cargo::rustc-env=MLX_SYS_LIBRARY={}", mlx.library.display());
    println!("cargo::rustc-env=MLX_SYS_VERSION={}", wheel::VERSION);
    // The same names as the published crate, for dependents that compile C++ against MLX.
    let include = env::join_paths([&mlx.include, &mlx_c])
        .map_err(|_| "the path of the cache folder must not contain a colon".to_owned())?;
    println!("cargo::metadata=include={}", include.display());
    println!("cargo::metadata=defines=");
    println!("cargo::metadata=version={}", wheel::VERSION);
    println!("cargo::metadata=library={}", mlx.library.display());
    Ok(())
}
