//! Lists the files of the embedded model and names them by their content, so that the library need
//! not hash 16 MB whenever it starts.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

use sha2::{Digest, Sha256};

const FOLDER: &str = "../../models/tiny-vl/full";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TINY_VL").is_none() {
        return Ok(());
    }
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(FOLDER);
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = fs::read_dir(&folder)
        .map_err(|e| format!("feature `tiny-vl` embeds {}: {e}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "json" || e == "safetensors"));
    files.sort();

    let mut all = Sha256::new();
    let mut list = String::new();
    for path in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let name =
            path.file_name().and_then(|name| name.to_str()).ok_or("a file name is not UTF-8")?;
        let bytes = fs::read(path)?;
        // With its name and length in front, no two lists of files give the same digest.
        all.update(format!("{name}\0{}\0", bytes.len()));
        all.update(&bytes);
        writeln!(list, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    let digest = all.finalize();
    let hash = digest.iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("tiny_vl.rs"),
        format!("const HASH: &str = {hash:?};\nconst FILES: &[(&str, &[u8])] = &[\n{list}];\n"),
    )?;
    Ok(())
}
