//! The command `system-check`: whether this machine can run models, and what it has.

use std::{env, fs, io, path::PathBuf};

use abstractllm::{
    Request, blocking, embedded,
    mlx::{self, MlxOptions},
};
use serde::Serialize;
use serde_json::{Value, json};
use sysinfo::{MemoryRefreshKind, System};

use crate::{args::SystemCheckArgs, failure::Failure, format, output};

/// What tiny-vl says to [`QUESTION`], by a wide margin on any device and in any float type.
const ANSWER: &str = "Hello! Show me an image and I will describe it.";
const QUESTION: &str = "Hello";

pub(crate) fn run(args: &SystemCheckArgs) -> Result<(), Failure> {
    let checks = vec![
        system(),
        processor(),
        memory(),
        device(),
        model_files(),
        computation(),
        cache(),
        hub_cache(),
    ];
    let ok = checks.iter().all(|check| check.ok);
    match args.json {
        true => output::pretty(&json!({ "ok": ok, "checks": checks }))?,
        false => print(&checks, ok)?,
    }
    match ok {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// Whether models can run as far as this thing is concerned.
    ok: bool,
    summary: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    details: Value,
}

impl Check {
    fn fine(name: &'static str, summary: impl Into<String>, details: Value) -> Self {
        Self { name, ok: true, summary: summary.into(), details }
    }

    fn problem(name: &'static str, summary: impl Into<String>) -> Self {
        Self { name, ok: false, summary: summary.into(), details: Value::Null }
    }
}

fn system() -> Check {
    let name = System::long_os_version().unwrap_or_else(|_| env::consts::OS.to_owned());
    let kernel = System::kernel_version().ok();
    let arch = env::consts::ARCH;
    let version = env!("CARGO_PKG_VERSION");
    let summary = format!("{name} on {arch}; abstractllm {version}");
    let details = json!({"os": name, "kernel": kernel, "arch": arch, "abstractllm": version});
    Check::fine("system", summary, details)
}

fn processor() -> Check {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let features = cpu_features();
    let summary = format!("{cpus} CPUs; {}", features.join(" "));
    Check::fine("processor", summary, json!({"cpus": cpus, "features": features}))
}

/// Returns the instruction sets found, of those that matter to matrix products.
fn cpu_features() -> Vec<&'static str> {
    macro_rules! detected {
        ($detect:ident: $($feature:tt)*) => {{
            let mut found = Vec::new();
            $(if std::arch::$detect!($feature) { found.push($feature); })*
            found
        }};
    }
    #[cfg(target_arch = "x86_64")]
    return detected!(is_x86_feature_detected:
        "sse4.2" "avx" "f16c" "fma" "avx2" "avx512f" "avx512bw" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return detected!(is_aarch64_feature_detected:
        "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Vec::new();
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let Ok(mut system) = System::new() else { return Check::fine(NAME, "unknown", Value::Null) };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let (total, available) = (system.total_memory(), system.available_memory());
    // A limit above what the machine has limits nothing.
    let limit = system.cgroup_limits().map(|of| of.total_memory).filter(|&limit| limit < total);
    let mut summary = format!("{} available of {}", format::bytes(available), format::bytes(total));
    if let Some(limit) = limit {
        summary.push_str(&format!("; this process group may use {}", format::bytes(limit)));
    }
    let details = json!({
        "total_bytes": total, "available_bytes": available, "cgroup_limit_bytes": limit,
    });
    Check::fine(NAME, summary, details)
}

fn device() -> Check {
    const NAME: &str = "MLX";
    match mlx::device_info() {
        Ok(info) => {
            let limit = format::bytes(info.limit_bytes);
            let summary = format!("computes on the {}, may use {limit}", info.kind.to_uppercase());
            Check::fine(NAME, summary, json!(info))
        }
        Err(error) => Check::problem(NAME, abstractllm::Error::from(error).chain()),
    }
}

fn model_files() -> Check {
    const NAME: &str = "embedded model";
    match embedded::tiny_vl() {
        Ok(path) => Check::fine(NAME, path.display().to_string(), json!({ "path": path })),
        Err(error) => Check::problem(NAME, error.chain()),
    }
}

/// Loads the embedded model and compares what it says with what it is known to say: the loader,
/// the tokenizer and nearly every kernel take part.
fn computation() -> Check {
    const NAME: &str = "computation";
    let options = MlxOptions { offline: true, ..MlxOptions::default() };
    let answer = abstractllm::load(embedded::TINY_VL, options)
        .and_then(|model| blocking::generate(&model, Request::text(QUESTION)));
    match answer {
        Ok(response) if response.text == ANSWER => {
            let time = response.completion.time_to_first_token.map(|time| time.as_secs_f64());
            let summary = format!("tiny-vl answers {ANSWER:?}, as it should");
            Check::fine(NAME, summary, json!({"answer": ANSWER, "first_token_seconds": time}))
        }
        Ok(response) => Check::problem(
            NAME,
            format!("MLX computes wrongly here: expected {ANSWER:?}, found {:?}", response.text),
        ),
        Err(error) => Check::problem(NAME, error.chain()),
    }
}

fn cache() -> Check {
    const NAME: &str = "cache";
    let folder = match embedded::cache_dir() {
        Ok(folder) => folder,
        Err(error) => return Check::problem(NAME, error.chain()),
    };
    match fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder)) {
        Ok(_) => {
            let summary = format!("{}, writable", folder.display());
            Check::fine(NAME, summary, json!({ "path": folder }))
        }
        Err(error) => Check::problem(NAME, format!("{}: {error}", folder.display())),
    }
}

/// Says where downloaded models lie; there need not be any.
fn hub_cache() -> Check {
    const NAME: &str = "Hugging Face cache";
    let variable = |name| env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")));
    let Some(folder) = folder else { return Check::fine(NAME, "no home folder", Value::Null) };
    let models = fs::read_dir(&folder).map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.starts_with("models--")).count()
    });
    let summary = match &models {
        Ok(count) => format!("{}, {count} models", folder.display()),
        Err(_) => format!("{}, not there yet", folder.display()),
    };
    Check::fine(NAME, summary, json!({"path": folder, "models": models.unwrap_or(0)}))
}

fn print(checks: &[Check], ok: bool) -> io::Result<()> {
    use io::Write;

    let mut out = io::stdout().lock();
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for Check { name, ok, summary, .. } in checks {
        let mark = if *ok { "ok     " } else { "problem" };
        writeln!(out, "{mark}  {name:width$}  {summary}")?;
    }
    let verdict =
        if ok { "This machine can run models." } else { "There is a problem; see above." };
    writeln!(out, "{verdict}")?;
    out.flush()
}
