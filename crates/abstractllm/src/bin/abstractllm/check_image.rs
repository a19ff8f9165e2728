//! The command `check-image`: what images would cost, and whether they fit into memory. No pixel is
//! decoded and no model is loaded.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use abstractllm::{
    Error, ErrorKind, GenerateParams, Result, embedded,
    mlx::{self, ByteSize, MemoryCheck, MemoryStage, MlxOptions},
    vision::{ImageProcessor, Limits, PixelBudget, Plan, Size},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::CheckImageArgs,
    failure::Failure,
    format,
    images::{self, Summary},
    output,
};

/// The processor of Qwen2.5-VL as published.
const QWEN2_5_VL: &str = r#"{
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136, "max_pixels": 12845056,
    "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2
}"#;

/// Heads of the vision tower of Qwen2-VL and Qwen2.5-VL.
const QWEN2_5_VL_HEADS: u64 = 16;

pub(crate) fn run(args: &CheckImageArgs) -> Result<(), Failure> {
    let geometry = Geometry::of(args.model.as_deref())?;
    let budget =
        PixelBudget { min_pixels: args.budget.min_pixels, max_pixels: args.budget.max_pixels };
    if let (Some(min), Some(max)) = (budget.min_pixels, budget.max_pixels)
        && min > max
    {
        let message = format!("--min-pixels {min} is above --max-pixels {max}");
        return Err(Error::new(ErrorKind::InvalidRequest, message).into());
    }
    let asked = Asked { budget, memory_limit: args.memory_limit };
    let checks: Vec<Check> =
        args.images.iter().map(|image| Check::of(image, &geometry, &asked)).collect();
    let ok = checks.iter().all(|check| check.error.is_none());
    let tokens =
        checks.iter().filter_map(|check| check.cost.as_ref()).map(|cost| cost.tokens).sum();
    let report = Report { model: &geometry.name, images: checks, total_tokens: tokens };
    match args.json {
        true => output::pretty(&report)?,
        false => report.print()?,
    }
    match ok {
        true => Ok(()),
        false => Err(Failure::Reported),
    }
}

/// What is asked about each image.
#[derive(Debug)]
struct Asked {
    budget: PixelBudget,
    memory_limit: Option<ByteSize>,
}

/// What of a model decides the cost of an image.
#[derive(Debug)]
struct Geometry {
    name: String,
    /// Absent for the published model, whose weights are not here.
    folder: Option<PathBuf>,
    processor: ImageProcessor,
    heads: u64,
}

impl Geometry {
    fn of(model: Option<&str>) -> Result<Self> {
        let Some(name) = model else {
            let processor = ImageProcessor::from_json(QWEN2_5_VL).map_err(|e| {
                Error::new(ErrorKind::Internal, "the built-in configuration is bad").with_source(e)
            })?;
            let name = "Qwen2.5-VL".into();
            let processor = processor.with_one_frame();
            return Ok(Self { name, folder: None, processor, heads: QWEN2_5_VL_HEADS });
        };
        let folder = match name {
            embedded::TINY_VL => embedded::tiny_vl()?,
            _ => Path::new(name).to_owned(),
        };
        if !folder.is_dir() {
            let message = format!("no model `{name}`: expected `tiny-vl` or the folder of a model");
            return Err(Error::new(ErrorKind::Model, message));
        }
        let [preprocessor, processor] = ["preprocessor_config.json", "processor_config.json"]
            .map(|file| fs::read_to_string(folder.join(file)).ok());
        let processor = ImageProcessor::from_configs(preprocessor.as_deref(), processor.as_deref())
            .map_err(|e| {
                let message = format!("cannot use the image processor of {}", folder.display());
                Error::new(ErrorKind::Model, message).with_source(e)
            })?;
        let heads = heads(&folder)?;
        // As the engine has it.
        let processor = processor.with_one_frame();
        Ok(Self { name: name.to_owned(), folder: Some(folder), processor, heads })
    }
}

/// Returns the heads of the vision tower that the model's `config.json` names.
fn heads(folder: &Path) -> Result<u64> {
    let path = folder.join("config.json");
    let fail = |what: String| Error::new(ErrorKind::Model, format!("{}: {what}", path.display()));
    let text = fs::read_to_string(&path).map_err(|e| fail("cannot read".into()).with_source(e))?;
    let config: Value =
        serde_json::from_str(&text).map_err(|e| fail("not JSON".into()).with_source(e))?;
    match &config["vision_config"]["num_heads"] {
        Value::Null => Ok(QWEN2_5_VL_HEADS),
        found => found.as_u64().filter(|heads| (1..=1024).contains(heads)).ok_or_else(|| {
            fail(format!("`vision_config.num_heads`: expected a number of heads, found {found}"))
        }),
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    model: &'a str,
    images: Vec<Check>,
    total_tokens: usize,
}

/// One image: what it costs, or why it cannot be used.
#[derive(Debug, Serialize)]
struct Check {
    #[serde(flatten)]
    image: Option<Summary>,
    #[serde(flatten)]
    cost: Option<Cost>,
    /// Of a request with this image alone, where the model is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cost {
    resized_width: u32,
    resized_height: u32,
    grid_height: usize,
    grid_width: usize,
    patches: usize,
    tokens: usize,
    /// Normalised patches, f32.
    patch_bytes: u64,
    /// The scores of one full-attention block of the vision tower, `[1, heads, P, P]`, if they are
    /// held at once: the largest tensor that an engine without fused attention makes.
    attention_bytes_bf16: u64,
    attention_bytes_f32: u64,
}

impl Check {
    fn of(argument: &OsStr, geometry: &Geometry, asked: &Asked) -> Self {
        let mut check = Self { image: None, cost: None, memory: None, error: None };
        let source = match images::open(argument, &Limits::default()) {
            Ok(source) => source,
            Err(error) => return Self { error: Some(error.chain()), ..check },
        };
        let name = source.summary.source.clone();
        check.image = Some(source.summary);
        match geometry.processor.plan(source.info.size(), &asked.budget) {
            Ok(plan) => check.cost = Some(Cost::of(&plan, geometry)),
            Err(error) => {
                return Self { error: Some(format!("image {name}: {error}")), ..check };
            }
        }
        match geometry.memory(source.info.size(), asked) {
            Ok(memory) => check.memory = memory,
            Err(error) => check.error = Some(error.chain()),
        }
        check
    }
}

impl Geometry {
    /// Says how much memory a request with an image of `size` would take.
    fn memory(&self, size: Size, asked: &Asked) -> Result<Option<MemoryCheck>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let mut options = MlxOptions::default();
        options.memory.limit_bytes = asked.memory_limit.map(|size| size.0);
        let params = GenerateParams {
            min_pixels: asked.budget.min_pixels,
            max_pixels: asked.budget.max_pixels,
            ..GenerateParams::default()
        };
        Ok(Some(mlx::check_memory(folder, &[size], &params, &options)?))
    }
}

impl Cost {
    fn of(plan: &Plan, geometry: &Geometry) -> Self {
        let patches = plan.patches as u64;
        let scores = geometry.heads * patches * patches;
        Self {
            resized_width: plan.resized.width,
            resized_height: plan.resized.height,
            grid_height: plan.grid.h,
            grid_width: plan.grid.w,
            patches: plan.patches,
            tokens: plan.tokens,
            patch_bytes: patches * geometry.processor.row_values() as u64 * 4,
            attention_bytes_bf16: scores * 2,
            attention_bytes_f32: scores * 4,
        }
    }
}

impl Report<'_> {
    /// For people: errors go to stderr, so that stdout holds what could be checked.
    fn print(&self) -> io::Result<()> {
        use io::Write;

        let mut out = io::stdout().lock();
        for check in &self.images {
            if let (Some(image), Some(cost)) = (&check.image, &check.cost) {
                let Summary { source, format, width, height, .. } = image;
                writeln!(out, "{source}: {}, {width}x{height}", format.to_uppercase())?;
                let Cost { resized_width, resized_height, grid_height, grid_width, .. } = cost;
                writeln!(out, "  resized    {resized_width}x{resized_height} for {}", self.model)?;
                let patches = cost.patches;
                writeln!(out, "  patches    {patches}, {grid_height} rows of {grid_width}")?;
                writeln!(out, "  tokens     {}", cost.tokens)?;
                writeln!(out, "  input      {}", format::bytes(cost.patch_bytes))?;
                let [bf16, f32] =
                    [cost.attention_bytes_bf16, cost.attention_bytes_f32].map(format::bytes);
                writeln!(out, "  attention  {bf16} in bf16, {f32} in f32, if not fused")?;
            }
            if let Some(memory) = &check.memory {
                print_memory(&mut out, memory)?;
            }
            if let Some(error) = &check.error {
                out.flush()?;
                crate::failure::say(&format!("error: {error}"));
            }
        }
        if self.images.len() > 1 {
            writeln!(out, "{} tokens in all", self.total_tokens)?;
        }
        out.flush()
    }
}

/// Prints the verdict and the terms of the stage that needs most.
fn print_memory(out: &mut impl io::Write, memory: &MemoryCheck) -> io::Result<()> {
    let [required, available] = [memory.required_bytes, memory.available_bytes].map(format::bytes);
    let verdict = if memory.fits { "fits" } else { "does not fit" };
    writeln!(out, "  memory     {required}; {} is {available}: {verdict}", memory.bound)?;
    for term in &memory.terms {
        let counts = [MemoryStage::Always, memory.stage].contains(&term.stage);
        if counts && term.bytes > 0 {
            writeln!(out, "    {:>9}  {}", format::bytes(term.bytes), term.name)?;
        }
    }
    match memory.fit {
        _ if memory.fits => Ok(()),
        None => writeln!(out, "  fit        no smaller image would do"),
        Some(fit) => {
            let steps = fit.prefill_step_tokens;
            match fit.max_pixels {
                Some(pixels) => writeln!(out, "  fit        with --max-pixels {pixels}"),
                None => writeln!(out, "  fit        with the prompt read {steps} tokens at a time"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use abstractllm::vision::Size;

    use super::*;

    /// Sizes of reports of failed allocations, each an exact count of bytes.
    #[test]
    fn attention_bytes_are_those_of_known_allocations() {
        let geometry = Geometry::of(None).unwrap();
        for (width, height, patches, tokens, bytes) in [
            (3024, 4032, 62_208, 15_552, 123_834_728_448),
            (5712, 4284, 64_680, 16_170, 133_872_076_800),
        ] {
            let size = Size { width, height };
            let plan = geometry.processor.plan(size, &PixelBudget::default()).unwrap();
            let cost = Cost::of(&plan, &geometry);
            assert_eq!((cost.patches, cost.tokens), (patches, tokens));
            assert_eq!(cost.attention_bytes_bf16, bytes);
            assert_eq!(cost.patch_bytes, patches as u64 * 588 * 4);
        }
    }

    #[test]
    fn heads_come_from_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        fs::write(&config, r#"{"vision_config": {"num_heads": 4}}"#).unwrap();
        assert_eq!(heads(folder.path()).unwrap(), 4);
        fs::write(&config, r#"{"vision_config": {}}"#).unwrap();
        assert_eq!(heads(folder.path()).unwrap(), 16);
        fs::write(&config, r#"{"vision_config": {"num_heads": "many"}}"#).unwrap();
        let error = heads(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(r#"expected a number of heads, found "many""#), "{error}");
    }
}
