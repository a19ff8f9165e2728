//! A bill of materials of the program, as `CycloneDX`: what Cargo builds into it, and MLX, which Cargo does not
//! know.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::ci::{Result, cargo, root, run, target};

/// What cargo-cyclonedx is told to call its files, of which it puts one beside the manifest of each package.
const NAME: &str = "xtask-sbom";
/// Where the wheels of MLX are named, each with its hashes.
const WHEELS: &str = "crates/mlx-sys/build/wheel.rs";

/// Writes `target/sbom/abstractllm-VERSION-TRIPLE.cdx.json`, of the program with all features for `triple`, or
/// for this machine.
pub(crate) fn write(triple: Option<&str>) -> Result {
    let triple = triple.map_or_else(host, |triple| Ok(triple.to_owned()))?;
    if !cargo("cyclonedx --version").output().is_ok_and(|output| output.status.success()) {
        return Err("expected cargo-cyclonedx: `cargo install --locked cargo-cyclonedx`".to_owned());
    }
    let made = make(&triple);
    for folder in folders()? {
        // Of packages that are not shipped there is none, or one too many.
        let _ = fs::remove_file(folder.join(format!("{NAME}.json")));
    }
    let mut bill = made?;
    if triple.contains("linux") {
        let text = fs::read_to_string(root().join(WHEELS)).map_err(|e| format!("{WHEELS}: {e}"))?;
        let variant = std::env::var("ABSTRACTLLM_MLX").unwrap_or_else(|_| "cpu".to_owned());
        add(&mut bill, mlx(&text, &variant, &triple)?)?;
    }
    let version = bill["metadata"]["component"]["version"].as_str().unwrap_or("0").to_owned();
    let folder = target().join("sbom");
    let path = folder.join(format!("abstractllm-{version}-{triple}.cdx.json"));
    let text = format!("{bill:#}\n");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, text))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let parts = bill["components"].as_array().map_or(0, Vec::len);
    eprintln!("xtask: {} names {parts} parts", path.display());
    Ok(())
}

/// Runs cargo-cyclonedx, and returns what it says of the program.
fn make(triple: &str) -> Result<Value> {
    let mut command =
        cargo("cyclonedx --manifest-path crates/abstractllm/Cargo.toml --format json");
    command.args(["--spec-version", "1.5", "--all-features"]);
    command.args(["--override-filename", NAME, "--target", triple]);
    // The same bill for the same commit.
    if let Some(seconds) = commit_time() {
        command.env("SOURCE_DATE_EPOCH", seconds);
    }
    run(&mut command)?;
    let path = root().join("crates/abstractllm").join(format!("{NAME}.json"));
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    // Packages of ours are named by where they are on this machine.
    let text = text.replace(&format!("file://{}", root().display()), "file://.");
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Adds `part`, on which the program depends.
fn add(bill: &mut Value, part: Value) -> Result {
    let (root, name) = (bill["metadata"]["component"]["bom-ref"].clone(), part["bom-ref"].clone());
    let no = || "expected lists `components` and `dependencies` in the bill".to_owned();
    bill["components"].as_array_mut().ok_or_else(no)?.push(part);
    let dependencies = bill["dependencies"].as_array_mut().ok_or_else(no)?;
    let of_program = dependencies.iter_mut().find(|entry| entry["ref"] == root).ok_or_else(no)?;
    of_program["dependsOn"].as_array_mut().ok_or_else(no)?.push(name.clone());
    dependencies.push(json!({"ref": name}));
    Ok(())
}

/// Returns the wheel of `variant` for `triple` as a part, by the source `text` in which it is pinned.
fn mlx(text: &str, variant: &str, triple: &str) -> Result<Value> {
    let no = |what: &str| format!("{WHEELS}: no {what} for {variant} on {triple}");
    let quoted = |after: &str, from: &str| {
        let rest = from.split_once(&format!("{after}\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let version = quoted("VERSION: &str = ", text).ok_or_else(|| no("version"))?;
    let wheel = text.split_once(&format!("variant: \"{variant}\"")).ok_or_else(|| no("wheel"))?.1;
    let package = quoted("package: ", wheel).ok_or_else(|| no("package"))?;
    let architecture = triple.split('-').next().unwrap_or_default();
    let hash = quoted(&format!("{architecture}: "), wheel).ok_or_else(|| no("hash"))?;
    let purl = format!("pkg:pypi/{package}@{version}");
    Ok(json!({
        "type": "library",
        "bom-ref": purl,
        "name": package,
        "version": version,
        "description": "MLX as compiled by its authors, with the libraries in its wheel",
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": hash}],
        "licenses": [{"expression": "MIT"}],
        "purl": purl,
        "externalReferences": [{"type": "vcs", "url": "https://github.com/ml-explore/mlx"}],
    }))
}

fn host() -> Result<String> {
    let said = output(Command::new("rustc").arg("-vV")).ok_or("rustc could not be started")?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| format!("no host in {said:?}"))
}

fn commit_time() -> Option<String> {
    let mut git = Command::new("git");
    let said = output(git.args(["log", "-1", "--format=%ct"]).current_dir(root()))?;
    Some(said.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Returns the folders of all packages of the workspace.
fn folders() -> Result<Vec<PathBuf>> {
    let said = output(&mut cargo("metadata --no-deps --format-version 1"));
    let said: Value = serde_json::from_str(&said.ok_or("cargo metadata failed")?)
        .map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = said["packages"].as_array().into_iter().flatten();
    let folder =
        |package: &Value| Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_owned());
    Ok(packages.filter_map(folder).collect())
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wheel_of_each_platform_is_named_with_its_hash() {
        let text = fs::read_to_string(root().join(WHEELS)).unwrap();
        let mut hashes = Vec::new();
        for (variant, package) in [("cpu", "mlx-cpu"), ("cuda12", "mlx-cuda-12")] {
            for triple in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
                let part = mlx(&text, variant, triple).unwrap();
                let version = part["version"].as_str().unwrap();
                assert_eq!(part["purl"], format!("pkg:pypi/{package}@{version}"));
                let hash = part["hashes"][0]["content"].as_str().unwrap().to_owned();
                assert_eq!(hash.len(), 64);
                assert!(!hashes.contains(&hash), "{variant} {triple}");
                hashes.push(hash);
            }
        }
        assert!(mlx(&text, "rocm", "x86_64-unknown-linux-gnu").is_err());
    }

    #[test]
    fn a_part_is_added_where_the_program_needs_it() {
        let mut bill = json!({
            "metadata": {"component": {"bom-ref": "a"}},
            "components": [],
            "dependencies": [{"ref": "b"}, {"ref": "a", "dependsOn": ["b"]}],
        });
        add(&mut bill, json!({"bom-ref": "c"})).unwrap();
        assert_eq!(bill["components"], json!([{"bom-ref": "c"}]));
        assert_eq!(bill["dependencies"][1]["dependsOn"], json!(["b", "c"]));
        assert!(add(&mut json!({}), json!({"bom-ref": "c"})).is_err());
    }
}
