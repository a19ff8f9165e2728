//! A provider by its name.

#[cfg(feature = "mlx")]
use std::time::Duration;

use llm_core::{Error, ErrorKind, Provider, Result};

#[cfg(feature = "mlx")]
use crate::reader::{Reader, invalid, unexpected};
use crate::{Config, config::nearest};

/// The names that [`create_llm`] knows in this build.
const PROVIDERS: &[&str] = &[
    #[cfg(feature = "mlx")]
    mlx_backend::PROVIDER,
];

/// Returns the provider `provider`, set up as `config` says; loading a model blocks until it is read.
///
/// ```no_run
/// let llm = abstractllm::create_llm("mlx", [("model", "tiny-vl"), ("max_tokens", "64")])?;
/// # Ok::<(), abstractllm::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] for an unknown provider or key, or a value out of its range, each
/// named with what was expected; otherwise what the provider says of its model.
pub fn create_llm(provider: &str, config: impl Into<Config>) -> Result<Box<dyn Provider>> {
    let config = config.into();
    match provider {
        #[cfg(feature = "mlx")]
        mlx_backend::PROVIDER => {
            let (model, options) = mlx_options(Reader::new(config))?;
            Ok(Box::new(load(&model, options)?))
        }
        _ => {
            drop(config);
            Err(unknown_provider(provider))
        }
    }
}

/// Loads `model` with typed options: `tiny-vl` for the embedded model, a folder, or
/// `organisation/model` in the local Hugging Face cache or on the hub.
///
/// A folder named `tiny-vl` in the working directory is written `./tiny-vl`.
///
/// # Errors
/// If there is no such model, or it cannot be read or run.
#[cfg(feature = "mlx")]
pub fn load(model: &str, options: mlx_backend::MlxOptions) -> Result<mlx_backend::MlxProvider> {
    #[cfg(feature = "tiny-vl")]
    if model == crate::embedded::TINY_VL {
        let folder = crate::embedded::tiny_vl()?;
        return Ok(mlx_backend::MlxProvider::load(&folder.to_string_lossy(), options)?);
    }
    Ok(mlx_backend::MlxProvider::load(model, options)?)
}

fn unknown_provider(name: &str) -> Error {
    let help = match (nearest(name, PROVIDERS), PROVIDERS) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, []) => "this build has none: enable a feature such as `mlx`".to_owned(),
        (None, known) => format!("known providers: {}", known.join(", ")),
    };
    Error::new(ErrorKind::InvalidRequest, format!("unknown provider `{name}`; {help}"))
}

#[cfg(feature = "mlx")]
fn mlx_options(mut reader: Reader) -> Result<(String, mlx_backend::MlxOptions)> {
    use mlx_backend::{ComputeType, MlxOptions, QuantizationMode, Quantize};

    let model = reader.text("model");
    let switch = reader.switch("quantize")?;
    let bits = reader.value("bits", "a whole number")?;
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
    if let Some(requests) = reader.value("max_queue", "a whole number of at least 0")? {
        options.max_queue = requests;
    }
    let limits = cache_limits(&mut reader)?;
    options.memory = memory(&mut reader)?;
    options.defaults = reader.params()?;
    reader.finish()?;
    // After every text was found good: this makes a folder.
    if let Some(limits) = limits {
        options.caches = mlx_backend::Caches::open(limits)?;
    }
    let model = model.ok_or_else(|| {
        invalid("missing key `model`: expected `tiny-vl`, a folder, or `organisation/model`")
    })?;
    Ok((model, options))
}

/// Returns how much memory may be used, and what is done about requests that need more.
#[cfg(feature = "mlx")]
fn memory(reader: &mut Reader) -> Result<mlx_backend::MemoryOptions> {
    use mlx_backend::{ByteSize, MemoryOptions, MemoryPolicy};

    let limit = reader.value("memory_limit", "a size such as 4GiB")?;
    let policy = match reader.text("memory_policy").as_deref() {
        None | Some("fit") => MemoryPolicy::Fit,
        Some("reject") => MemoryPolicy::Reject,
        Some(other) => return Err(unexpected("memory_policy", "fit or reject", other)),
    };
    Ok(MemoryOptions { limit_bytes: limit.map(|ByteSize(bytes)| bytes), policy })
}

/// Returns the limits of caches of its own, if any key about caches is there.
#[cfg(feature = "mlx")]
fn cache_limits(reader: &mut Reader) -> Result<Option<mlx_backend::CacheLimits>> {
    use mlx_backend::{ByteSize, CacheLimits, DiskCache};

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

#[cfg(all(test, feature = "mlx"))]
mod tests {
    use mlx_backend::{ComputeType, MlxOptions, Quantize};

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<MlxOptions> {
        let config = pairs.iter().copied().chain([("model", "m")]).collect();
        mlx_options(Reader::new(config)).map(|(model, options)| {
            assert_eq!(model, "m");
            options
        })
    }

    #[test]
    fn nothing_set_is_the_default() {
        let (found, default) = (options(&[]).unwrap(), MlxOptions::default());
        assert_eq!(found.quantize, default.quantize);
        assert_eq!(found.compute_type, default.compute_type);
        assert_eq!(found.prefill_step_tokens, default.prefill_step_tokens);
        assert_eq!((found.max_batch, found.max_queue), (default.max_batch, default.max_queue));
        assert_eq!(found.offline, default.offline);
        assert_eq!(found.memory, default.memory);
        assert_eq!(found.defaults, default.defaults);
    }

    #[test]
    fn every_option_has_a_text_form() {
        let found = options(&[
            ("compute_type", "bf16"),
            ("prefill_step_tokens", "64"),
            ("max_batch", "4"),
            ("max_queue", "0"),
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
        assert!(found.offline);
        let memory = mlx_backend::MemoryOptions {
            limit_bytes: Some(4 << 30),
            policy: mlx_backend::MemoryPolicy::Reject,
        };
        assert_eq!(found.memory, memory);
        assert_eq!(found.quantize, Some(Quantize::default()));
        assert_eq!(found.defaults.temperature, Some(0.5));
    }

    #[test]
    fn a_key_about_caches_makes_caches_of_its_own() {
        let shared = options(&[]).unwrap().caches;
        assert!(std::sync::Arc::ptr_eq(&shared, &options(&[]).unwrap().caches));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep");
        let own = options(&[
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
        let forever = options(&[("keep_alive", "forever")]).unwrap().caches;
        assert_eq!(forever.limits().keep_alive, None);
    }

    #[test]
    fn bits_imply_quantize_unless_it_is_off() {
        let eight = Some(Quantize::affine(8, 32));
        let set = [("bits", "8"), ("group_size", "32")];
        assert_eq!(options(&set).unwrap().quantize, eight);
        let off = [set[0], set[1], ("quantize", "false")];
        assert_eq!(options(&off).unwrap().quantize, None);
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
            assert_eq!(options(&[(key, value)]).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_model_must_be_named() {
        let error = create_llm("mlx", Config::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().starts_with("missing key `model`"), "{error}");
    }

    #[test]
    fn an_unknown_provider_is_named() {
        let error = create_llm("mxl", Config::default()).unwrap_err().to_string();
        assert_eq!(error, "unknown provider `mxl`; did you mean `mlx`?");
        let error = create_llm("openai", Config::default()).unwrap_err().to_string();
        assert_eq!(error, "unknown provider `openai`; known providers: mlx");
    }
}
