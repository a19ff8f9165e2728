//! The virtual environment of mlx-vlm, kept below `target`.

use std::path::{Path, PathBuf};

use python_env::Missing;

/// Makes what is missing of the environment and returns its interpreter.
///
/// # Errors
/// If Python or a package cannot be had.
pub fn with_mlx_vlm() -> Result<PathBuf, Missing> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = |name: &str| benches.join("peers").join(name);
    let (peers, mlx) = (list("requirements.txt"), list("requirements-mlx.txt"));
    // mlx-vlm asks for a newer MLX than the one that both sides are to run on, so that comes after.
    let lists: [(&Path, &[&str]); 2] = [(&peers, &[]), (&mlx, &["--no-deps"])];
    python_env::python(&benches.join("../target/bench-peers"), &lists)
}
