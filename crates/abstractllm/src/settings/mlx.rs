//! Settings of the provider `mlx`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use llm_core::{Error, ErrorKind, Provider, Result};
use mlx_backend::{
    ByteSize, CacheLimits, ComputeType, DiskCache, MemoryOptions, MemoryPolicy, MlxOptions,
    QuantizationMode, Quantize,
};

use crate::{
    Config,
    reader::{ConfigReader, invalid, unexpected},
};

/// Makes the provider `mlx`; blocks until the model is read.
///
/// # Errors
/// If a setting is unknown or not of its type, or the model cannot be read or run.
pub(crate) fn create(config: Config) -> Result<Box<dyn Provider>> {
    let (model, options) = mlx_options(config)?;
    Ok(Box::new(crate::load(&model, options)?))
}

/// Reads settings of the provider `mlx`: the model, and the options to [`load`](crate::load) it with. For
/// programs that add what no text can hold, such as who hears of progress; nothing is loaded here, and
/// only `config` is read ([`Config::with_sources`] adds the rest).
///
/// # Errors
/// If a setting is unknown or not of its type, or no model is named.
pub fn mlx_options(config: Config) -> Result<(String, MlxOptions)> {
    let mut reader = ConfigReader::new(config);
    let model = reader.text("model");
    let switch = reader.switch("quantize")?;
    let bits = bits(&mut reader)?;
    let group_size = reader.value("group_size", "a whole number")?;
    let mode =
        reader.value::<QuantizationMode>("quantization_mode", "affine, mxfp4, mxfp8 or nvfp4")?;
    let named = bits.is_some() || group_size.is_some() || mode.is_some();
    let wanted = switch.unwrap_or(named);
    let usual = Quantize::from(mode.unwrap_or_default());
    let quantize = Quantize {
        bits: bits.unwrap_or(usual.bits),
        group_size: group_size.unwrap_or(usual.group_size),
        ..usual
    };
    // Checked even when it is switched off: a bad value should not lie in wait.
    quantize.validate().map_err(invalid)?;
    let compute_type = match reader.text("compute_type").as_deref() {
        None | Some("auto") => ComputeType::Auto,
        Some("f32") => ComputeType::F32,
        Some("bf16") => ComputeType::Bf16,
        Some("f16") => ComputeType::F16,
        Some(other) => return Err(unexpected("compute_type", "auto, f32, bf16 or f16", other)),
    };
    let mut options = MlxOptions {
        quantize: wanted.then_some(quantize),
        compute_type,
        offline: reader.switch("offline")?.unwrap_or(false),
        ..MlxOptions::default()
    };
    for (key, option) in [
        ("prefill_step_tokens", &mut options.prefill_step_tokens),
        ("max_batch", &mut options.max_batch),
    ] {
        const COUNT: &str = "a whole number of at least 1";
        match reader.value(key, COUNT)? {
            Some(0) => return Err(unexpected(key, COUNT, "0")),
            Some(count) => *option = count,
            None => {}
        }
    }
    for (key, option) in [
        ("max_queue", &mut options.max_queue),
        ("prompt_lookup_tokens", &mut options.prompt_lookup_tokens),
    ] {
        if let Some(count) = reader.value(key, "a whole number of at least 0")? {
            *option = count;
        }
    }
    options.kv_cache = super::kv_cache::options(&mut reader)?;
    let limits = cache_limits(&mut reader)?;
    options.memory = memory(&mut reader)?;
    options.adapters = adapters(&mut reader)?;
    options.defaults = reader.params()?;
    let device = reader.text("device");
    let device_map = reader.text("device_map");
    reader.finish()?;
    check_device(device.as_deref(), device_map.as_deref())?;
    check_adapter(&options)?;
    // After every text was found good: this makes a folder.
    if let Some(limits) = limits {
        options.caches = mlx_backend::Caches::open(limits)?;
    }
    let model = model.ok_or_else(|| {
        invalid("missing key `model`: expected `tiny-vl`, a folder, or `organisation/model`")
    })?;
    Ok((model, options))
}

/// Returns the bits of packed weights, from `bits` or from the switches of the Python original.
fn bits(reader: &mut ConfigReader) -> Result<Option<i32>> {
    let bits = reader.value("bits", "a whole number")?;
    let eight = reader.switch("load_in_8bit")?.unwrap_or(false);
    let four = reader.switch("load_in_4bit")?.unwrap_or(false);
    match (bits, eight, four) {
        (bits, false, false) => Ok(bits),
        (None, true, false) => Ok(Some(8)),
        (None, false, true) => Ok(Some(4)),
        _ => Err(invalid("give one of `bits`, `load_in_8bit` and `load_in_4bit`")),
    }
}

/// Returns folders of adapters by their names.
fn adapters(reader: &mut ConfigReader) -> Result<BTreeMap<String, PathBuf>> {
    const EXPECTED: &str = "a JSON object of names and folders";
    let Some(text) = reader.text("adapters") else { return Ok(BTreeMap::new()) };
    let found: BTreeMap<String, PathBuf> =
        serde_json::from_str(&text).map_err(|_| unexpected("adapters", EXPECTED, &text))?;
    match found.keys().find(|name| name.trim() != *name || name.is_empty()) {
        None => Ok(found),
        Some(name) => {
            Err(unexpected("adapters", "names that neither are empty nor begin or end blank", name))
        }
    }
}

/// Checks that the adapter of requests that name none is there: each would fail otherwise.
fn check_adapter(options: &MlxOptions) -> Result<()> {
    let Some(name) = &options.defaults.adapter else { return Ok(()) };
    if options.adapters.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = options.adapters.keys().map(String::as_str).collect();
    let expected = match known.as_slice() {
        [] => "a name of `adapters`, which is not set".to_owned(),
        known => format!("a name of `adapters`: {}", known.join(", ")),
    };
    Err(unexpected("adapter", expected, name))
}

/// Checks that MLX runs where it is asked to: that is fixed when it is built.
fn check_device(device: Option<&str>, device_map: Option<&str>) -> Result<()> {
    match device {
        None | Some("auto") => {}
        Some(asked @ ("cpu" | "gpu")) => {
            let found = mlx_backend::device_info()?.kind;
            if asked != found {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("`device`: this MLX computes on the {found}, not on the {asked}"),
                ));
            }
        }
        Some(other) => return Err(unexpected("device", "auto, cpu or gpu", other)),
    }
    match device_map {
        None | Some("auto") => Ok(()),
        Some(other) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "`device_map`: a model is not split over devices; expected auto, found `{other}`"
            ),
        )),
    }
}

/// Returns how much memory may be used, and what is done about requests that need more.
fn memory(reader: &mut ConfigReader) -> Result<MemoryOptions> {
    let limit = reader.value("memory_limit", "a size such as 4GiB")?;
    let policy = match reader.text("memory_policy").as_deref() {
        None | Some("fit") => MemoryPolicy::Fit,
        Some("reject") => MemoryPolicy::Reject,
        Some(other) => return Err(unexpected("memory_policy", "fit or reject", other)),
    };
    Ok(MemoryOptions { limit_bytes: limit.map(|ByteSize(bytes)| bytes), policy })
}

/// Returns the limits of caches of its own, if any key about caches is there.
fn cache_limits(reader: &mut ConfigReader) -> Result<Option<CacheLimits>> {
    const SIZE: &str = "a size such as 512MiB or 0";
    let mut limits = CacheLimits::default();
    let sizes = [
        ("image_cache", &mut limits.image_bytes),
        ("feature_cache", &mut limits.feature_bytes),
        ("prefix_cache", &mut limits.prefix_bytes),
        ("model_cache", &mut limits.model_bytes),
    ];
    let mut any = false;
    for (key, limit) in sizes {
        if let Some(ByteSize(bytes)) = reader.value(key, SIZE)? {
            (any, *limit) = (true, bytes);
        }
    }
    if let Some(models) = reader.value("models", "a whole number of at least 0")? {
        (any, limits.models) = (true, models);
    }
    if let Some(text) = reader.text("keep_alive") {
        let seconds = || text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        any = true;
        limits.keep_alive = match text.as_str() {
            "forever" => None,
            _ => Some(seconds().ok_or_else(|| {
                unexpected("keep_alive", "a number of seconds or forever", &text)
            })?),
        };
    }
    let size = reader.value("cache_dir_size", SIZE)?;
    if let Some(dir) = reader.text("cache_dir") {
        let mut disk = DiskCache::new(dir);
        if let Some(ByteSize(bytes)) = size {
            disk.limit_bytes = bytes;
        }
        (any, limits.disk) = (true, Some(disk));
    } else if size.is_some() {
        return Err(invalid("`cache_dir_size` needs `cache_dir`"));
    }
    Ok(any.then_some(limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create_llm;

    fn read(pairs: &[(&str, &str)]) -> Result<MlxOptions> {
        let config = pairs.iter().copied().chain([("model", "m")]).collect();
        mlx_options(config).map(|(model, options)| {
            assert_eq!(model, "m");
            options
        })
    }

    #[test]
    fn nothing_set_is_the_default() {
        let (found, default) = (read(&[]).unwrap(), MlxOptions::default());
        assert_eq!(found.quantize, default.quantize);
        assert_eq!(found.compute_type, default.compute_type);
        assert_eq!(found.prefill_step_tokens, default.prefill_step_tokens);
        assert_eq!((found.max_batch, found.max_queue), (default.max_batch, default.max_queue));
        assert_eq!(found.offline, default.offline);
        assert_eq!(found.kv_cache, default.kv_cache);
        assert_eq!(found.prompt_lookup_tokens, default.prompt_lookup_tokens);
        assert_eq!(found.memory, default.memory);
        assert_eq!(found.adapters, default.adapters);
        assert_eq!(found.defaults, default.defaults);
    }

    #[test]
    fn every_option_has_a_text_form() {
        let found = read(&[
            ("compute_type", "bf16"),
            ("prefill_step_tokens", "64"),
            ("max_batch", "4"),
            ("max_queue", "0"),
            ("prompt_lookup_tokens", "6"),
            ("offline", "true"),
            ("memory_limit", "4GiB"),
            ("memory_policy", "reject"),
            ("quantize", "true"),
            ("temperature", "0.5"),
        ])
        .unwrap();
        assert_eq!(found.compute_type, ComputeType::Bf16);
        assert_eq!(found.prefill_step_tokens, 64);
        assert_eq!((found.max_batch, found.max_queue), (4, 0));
        assert_eq!(found.prompt_lookup_tokens, 6);
        assert!(found.offline);
        let memory = MemoryOptions { limit_bytes: Some(4 << 30), policy: MemoryPolicy::Reject };
        assert_eq!(found.memory, memory);
        assert_eq!(found.quantize, Some(Quantize::default()));
        assert_eq!(found.defaults.temperature, Some(0.5));
    }

    #[test]
    fn adapters_are_folders_by_name() {
        let both = r#"{"b": "/models/b", "a": "../a"}"#;
        let found = read(&[("adapters", both), ("adapter", "b")]).unwrap();
        let expected = [("a", "../a"), ("b", "/models/b")];
        assert_eq!(found.adapters, expected.map(|(n, f)| (n.into(), f.into())).into());
        assert_eq!(found.defaults.adapter.as_deref(), Some("b"));
        for (pairs, says) in [
            (
                &[("adapters", "/models/a")][..],
                "`adapters`: expected a JSON object of names and folders, found `/models/a`",
            ),
            (
                &[("adapters", r#"{" a": "b"}"#)],
                "`adapters`: expected names that neither are empty nor begin or end blank, found ` a`",
            ),
            (
                &[("adapter", "c")],
                "`adapter`: expected a name of `adapters`, which is not set, found `c`",
            ),
            (
                &[("adapter", "c"), ("adapters", both)],
                "`adapter`: expected a name of `adapters`: a, b, found `c`",
            ),
        ] {
            assert_eq!(read(pairs).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_key_about_caches_makes_caches_of_its_own() {
        let shared = read(&[]).unwrap().caches;
        assert!(std::sync::Arc::ptr_eq(&shared, &read(&[]).unwrap().caches));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep");
        let own = read(&[
            ("prefix_cache", "2GiB"),
            ("image_cache", "0"),
            ("models", "1"),
            ("keep_alive", "1.5"),
            ("cache_dir", path.to_str().unwrap()),
        ])
        .unwrap()
        .caches;
        let limits = own.limits();
        assert_eq!((limits.prefix_bytes, limits.image_bytes, limits.models), (2 << 30, 0, 1));
        assert_eq!(limits.keep_alive, Some(Duration::from_millis(1500)));
        assert_eq!(limits.disk.as_ref().map(|d| d.limit_bytes), Some(10 << 30));
        assert!(path.exists());
        let forever = read(&[("keep_alive", "forever")]).unwrap().caches;
        assert_eq!(forever.limits().keep_alive, None);
    }

    #[test]
    fn bits_imply_quantize_unless_it_is_off() {
        let eight = Some(Quantize::affine(8, 32));
        let set = [("bits", "8"), ("group_size", "32")];
        assert_eq!(read(&set).unwrap().quantize, eight);
        let off = [set[0], set[1], ("quantize", "false")];
        assert_eq!(read(&off).unwrap().quantize, None);
    }

    #[test]
    fn bad_values_are_named() {
        for (key, value, says) in [
            ("bits", "7", "bits must be one of [2, 3, 4, 5, 6, 8] in the mode affine, found 7"),
            ("bits", "four", "`bits`: expected a whole number, found `four`"),
            ("compute_type", "f64", "`compute_type`: expected auto, f32, bf16 or f16, found `f64`"),
            (
                "prefill_step_tokens",
                "0",
                "`prefill_step_tokens`: expected a whole number of at least 1, found `0`",
            ),
            ("max_batch", "0", "`max_batch`: expected a whole number of at least 1, found `0`"),
            ("max_queue", "-1", "`max_queue`: expected a whole number of at least 0, found `-1`"),
            (
                "prefix_cache",
                "much",
                "`prefix_cache`: expected a size such as 512MiB or 0, found `much`",
            ),
            (
                "keep_alive",
                "-1",
                "`keep_alive`: expected a number of seconds or forever, found `-1`",
            ),
            ("cache_dir_size", "1GB", "`cache_dir_size` needs `cache_dir`"),
            ("memory_policy", "hope", "`memory_policy`: expected fit or reject, found `hope`"),
            ("memory_limit", "all", "`memory_limit`: expected a size such as 4GiB, found `all`"),
            ("modle", "x", "unknown key `modle`; did you mean `model`?"),
        ] {
            assert_eq!(read(&[(key, value)]).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_model_must_be_named() {
        let error = create_llm("mlx", Config::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().starts_with("missing key `model`"), "{error}");
    }

    #[test]
    fn names_of_the_original_are_read() {
        for (key, bits) in [("load_in_8bit", 8), ("load_in_4bit", 4)] {
            let packed = read(&[(key, "True")]).unwrap().quantize;
            assert_eq!(packed.map(|quantize| quantize.bits), Some(bits));
            assert_eq!(read(&[(key, "False")]).unwrap().quantize, None);
        }
        let error = read(&[("load_in_8bit", "true"), ("bits", "4")]).unwrap_err().to_string();
        assert_eq!(error, "give one of `bits`, `load_in_8bit` and `load_in_4bit`");
    }

    #[test]
    fn the_device_is_the_one_that_mlx_was_built_for() {
        let found = mlx_backend::device_info().unwrap().kind;
        let other = if found == "cpu" { "gpu" } else { "cpu" };
        for good in [("device", "auto"), ("device", found), ("device_map", "auto")] {
            assert!(read(&[good]).is_ok(), "{good:?}");
        }
        for bad in [("device", other), ("device_map", "balanced")] {
            assert_eq!(read(&[bad]).unwrap_err().kind(), ErrorKind::Unsupported, "{bad:?}");
        }
        let error = read(&[("device", "tpu")]).unwrap_err().to_string();
        assert_eq!(error, "`device`: expected auto, cpu or gpu, found `tpu`");
    }
}
