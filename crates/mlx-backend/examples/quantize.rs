//! Writes a 4-bit copy of a full checkpoint: `cargo run -p mlx-backend --example quantize -- FROM TO`.

use std::{error::Error, path::PathBuf, sync::Arc};

use mlx_backend::{Quantize, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(target)) = (paths.next(), paths.next()) else {
        return Err("expected two arguments: the checkpoint to read and the folder to write".into());
    };
    convert(&source, &target, &Quantize::default().into(), Arc::new(|_, _| {}))?;
    Ok(())
}
