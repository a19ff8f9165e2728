//! `ImageProcessor`: a validated processor configuration and the steps it asks for.

use serde_json::{Map, Value};

use crate::keys::{self, flag, number_in};
use crate::normalize::Table;
use crate::patchify::Layout;
use crate::{Error, Filter, Grid, Level, Limits, Mode, PassOrder, Rescale, Size, smart_resize};

/// The processor types that share the Qwen2-VL geometry and patch order.
const KNOWN_TYPES: [&str; 4] = [
    "Qwen2VLImageProcessor",
    "Qwen2_5_VLImageProcessor",
    "Qwen3VLImageProcessor",
    "Qwen2VLImageProcessorPil",
];

/// The preprocessing of one model, parsed once from its configuration files.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    pub(crate) layout: Layout,
    pub(crate) min_pixels: u64,
    pub(crate) max_pixels: u64,
    pub(crate) filter: Filter,
    pub(crate) order: PassOrder,
    rescale: Rescale,
    factor: f64,
    mean: [f32; 3],
    std: [f32; 3],
    pub(crate) limits: Limits,
    pub(crate) table: Box<Table>,
    /// The channels of a merged block of `layout`.
    pub(crate) channels: Vec<u8>,
    pub(crate) level: Level,
    pub(crate) mode: Mode,
}

/// Overrides of the configured pixel bounds for one call; `None` keeps the configured one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PixelBudget {
    /// The fewest pixels after resizing.
    pub min_pixels: Option<u64>,
    /// The most pixels after resizing.
    pub max_pixels: Option<u64>,
}

/// What an image of a known size becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The size after resizing.
    pub resized: Size,
    /// The patches.
    pub grid: Grid,
    /// The number of patches, `grid.patches()`.
    pub patches: usize,
    /// The number of merged blocks, one placeholder of the language model each.
    pub tokens: usize,
}

/// The input of a vision tower: `values` is `[grid.patches(), 3 * frames * patch * patch]`, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// The rows, one per patch; 1176 values each for Qwen2-VL and Qwen2.5-VL.
    pub values: Vec<f32>,
    /// Frames, rows and columns of patches.
    pub grid: Grid,
}

impl ImageProcessor {
    /// Reads the content of `preprocessor_config.json`, or of a `processor_config.json` that has an `image_processor`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is no JSON object, names another kind of processor, or holds an unusable value.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_configs(Some(text), None)
    }

    /// Reads both configuration files of a model; keys of `image_processor` in `processor` win over `preprocessor`,
    /// and top-level `min_pixels` and `max_pixels` win over `size`.
    ///
    /// # Errors
    /// As for [`ImageProcessor::from_json`], and if neither file describes an image processor.
    pub fn from_configs(
        preprocessor: Option<&str>,
        processor: Option<&str>,
    ) -> Result<Self, Error> {
        Self::from_keys(&keys::of_both_files(preprocessor, processor)?)
    }

    /// Replaces the order of the resampling passes; see [`PassOrder`].
    #[must_use]
    pub fn with_pass_order(mut self, order: PassOrder) -> Self {
        self.order = order;
        self
    }

    /// Replaces the arithmetic that turns bytes into floats; see [`Rescale`].
    #[must_use]
    pub fn with_rescale(mut self, rescale: Rescale) -> Self {
        self.rescale = rescale;
        *self.table = Table::new(rescale, self.factor, self.mean, self.std);
        self
    }

    /// Replaces the instructions that are used; the fastest that the machine has by default. The result is the same.
    #[must_use]
    pub fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Replaces the mode, which is [`Mode::Exact`].
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Writes one frame of each patch in place of all, which are equal in a still image, so that rows are
    /// `[3, patch, patch]`: for a tower that adds up the weights that it has for each frame.
    #[must_use]
    pub fn with_one_frame(mut self) -> Self {
        self.layout.frames = 1;
        self.channels = self.layout.channels();
        self
    }

    /// Replaces the limits that source and resized images are held to.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The number of values in a patch row; 1176 for Qwen2-VL and Qwen2.5-VL, 588 with one frame.
    pub fn row_values(&self) -> usize {
        self.layout.row_values()
    }

    /// The fewest and the most pixels that an image has after resizing, where both can be met.
    pub fn pixel_bounds(&self, budget: &PixelBudget) -> (u64, u64) {
        let min = budget.min_pixels.unwrap_or(self.min_pixels);
        (min, budget.max_pixels.unwrap_or(self.max_pixels))
    }

    /// Says what an image of `size` (upright) becomes, without its pixels.
    ///
    /// # Errors
    /// [`Error::Limit`] if `size` or the resized image exceeds the limits or one side is more than 200 times the
    /// other; [`Error::Shape`] if a side is zero; [`Error::Config`] if the budget allows no pixels.
    pub fn plan(&self, size: Size, budget: &PixelBudget) -> Result<Plan, Error> {
        self.limits.check_size(size)?;
        let (min, max) = self.pixel_bounds(budget);
        if max == 0 {
            return Err(Error::config("max_pixels", "expected at least 1, found 0"));
        }
        self.plan_resized(smart_resize(size, self.factor(), min, max)?)
    }

    /// What both sides are multiples of after resizing.
    pub(crate) fn factor(&self) -> u32 {
        (self.layout.patch * self.layout.merge) as u32
    }

    /// Says what an image becomes that is resized to `resized`.
    pub(crate) fn plan_resized(&self, resized: Size) -> Result<Plan, Error> {
        let Layout { patch, merge, .. } = self.layout;
        if resized.pixels() > self.limits.max_pixels {
            return Err(Error::Limit {
                what: "number of pixels after resizing",
                limit: self.limits.max_pixels,
                found: resized.pixels(),
            });
        }
        let grid =
            Grid { t: 1, h: resized.height as usize / patch, w: resized.width as usize / patch };
        let patches = grid.patches();
        Ok(Plan { resized, grid, patches, tokens: patches / (merge * merge) })
    }

    pub(crate) fn from_keys(keys: &Map<String, Value>) -> Result<Self, Error> {
        let kind = keys.get("image_processor_type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| {
            Error::config("image_processor_type", "expected the name of a processor, found none")
        })?;
        if !KNOWN_TYPES.contains(&kind.strip_suffix("Fast").unwrap_or(kind)) {
            let known = KNOWN_TYPES.join(", ");
            return Err(Error::config(
                "image_processor_type",
                format!("expected one of {known}, found {kind}"),
            ));
        }
        // The step cannot be left out: a size that is no multiple of the block has no patches.
        if !flag(keys, "do_resize", true)? {
            return Err(Error::config("do_resize", "expected true, found false"));
        }
        let side = |key: &str, default| number_in(keys.get(key), key, default, 1..=256);
        let layout = Layout {
            patch: side("patch_size", 14)? as usize,
            frames: side("temporal_patch_size", 2)? as usize,
            merge: side("merge_size", 2)? as usize,
        };
        let size = keys.get("size");
        let bound = |key: &str, in_size: &str, default| {
            let nested = size.and_then(|size| size.get(in_size).or_else(|| size.get(key)));
            let value = keys.get(key).filter(|value| !value.is_null()).or(nested);
            number_in(value, key, default, 1..=u64::from(u32::MAX))
        };
        let min_pixels = bound("min_pixels", "shortest_edge", 56 * 56)?;
        let max_pixels = bound("max_pixels", "longest_edge", 28 * 28 * 1280)?;
        if min_pixels > max_pixels {
            return Err(Error::config(
                "min_pixels",
                format!("expected at most max_pixels = {max_pixels}, found {min_pixels}"),
            ));
        }
        let filter = keys::filter(keys, 3)?;
        let factor = keys::factor(keys)?;
        let [mean, std] = keys::mean_and_std(keys, keys::CLIP)?;
        let rescale = Rescale::default();
        let table = Box::new(Table::new(rescale, factor, mean, std));
        Ok(Self {
            channels: layout.channels(),
            level: Level::detect(),
            table,
            layout,
            min_pixels,
            max_pixels,
            filter,
            order: PassOrder::default(),
            rescale,
            factor,
            mean,
            std,
            limits: Limits::default(),
            mode: Mode::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = r#""image_processor_type":"Qwen2VLImageProcessor""#;

    fn processor(keys: &str) -> Result<ImageProcessor, Error> {
        ImageProcessor::from_json(&format!("{{{TYPE}{keys}}}"))
    }

    fn field(result: Result<ImageProcessor, Error>) -> String {
        match result {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a configuration error, found {other:?}"),
        }
    }

    #[test]
    fn a_plan_gives_grid_and_tokens() {
        let processor = processor(r#","max_pixels":12845056"#).unwrap();
        let size = Size { width: 3024, height: 4032 };
        let plan = processor.plan(size, &PixelBudget::default()).unwrap();
        assert_eq!((plan.patches, plan.tokens), (62_208, 15_552));
        let budget = PixelBudget { max_pixels: Some(1_003_520), ..PixelBudget::default() };
        let plan = processor.plan(size, &budget).unwrap();
        assert_eq!((plan.patches, plan.tokens), (4_920, 1_230));
        assert_eq!(plan.grid, Grid { t: 1, h: 82, w: 60 });
    }

    #[test]
    fn the_nested_file_wins_and_top_level_bounds_win_over_size() {
        let outer = format!(r#"{{{TYPE},"max_pixels":4000,"min_pixels":3200}}"#);
        let inner = r#"{"image_processor":{"max_pixels":5000,"size":{"shortest_edge":1}}}"#;
        let both = ImageProcessor::from_configs(Some(&outer), Some(inner)).unwrap();
        assert_eq!((both.min_pixels, both.max_pixels), (3200, 5000));
        let sized = processor(r#","size":{"shortest_edge":10,"longest_edge":20}"#).unwrap();
        assert_eq!((sized.min_pixels, sized.max_pixels), (10, 20));
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(field(ImageProcessor::from_json("[]")), "preprocessor_config.json");
        assert_eq!(field(ImageProcessor::from_json("{}")), "image_processor_type");
        let other = r#"{"image_processor_type":"CLIPImageProcessor"}"#;
        assert_eq!(field(ImageProcessor::from_json(other)), "image_processor_type");
        assert_eq!(field(processor(r#","patch_size":0"#)), "patch_size");
        assert_eq!(field(processor(r#","image_mean":[1,2]"#)), "image_mean");
        assert_eq!(field(processor(r#","image_std":[1,0,1]"#)), "image_std");
        assert_eq!(field(processor(r#","min_pixels":9,"max_pixels":8"#)), "min_pixels");
        assert_eq!(field(processor(r#","do_resize":false"#)), "do_resize");
    }
}
