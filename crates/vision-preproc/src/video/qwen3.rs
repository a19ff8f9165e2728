//! What Qwen3-VL does otherwise with videos: which frames are looked at, the bounds of pixels, which all frames share, and
//! the time of each patch, which its prompt says in words.
//!
//! Source: transformers 5.23.0, `video_processing_qwen3_vl.py`, `processing_qwen3_vl.py`.

use serde_json::{Map, Value, json};

use super::Sampled;
use crate::geometry::smart_resize_frames;
use crate::keys::number_in;
use crate::{Error, ImageProcessor, PixelBudget, Size};

/// Pixels of all frames, where no `size` is configured.
const MIN_PIXELS: u64 = 128 * 32 * 32;
const MAX_PIXELS: u64 = 768 * 32 * 32;

/// Takes the bounds out of `keys`, and puts defaults there; of older names for bounds upstream knows none.
pub(super) fn bounds(keys: &mut Map<String, Value>) -> Result<(u64, u64), Error> {
    let defaults = [
        ("patch_size", json!(16)),
        ("image_mean", json!([0.5, 0.5, 0.5])),
        ("image_std", json!([0.5, 0.5, 0.5])),
    ];
    for (key, default) in defaults {
        keys.entry(key).or_insert(default);
    }
    keys.remove("min_pixels");
    keys.remove("max_pixels");
    let size = keys.remove("size");
    let bound = |key: &str, default| {
        let value = size.as_ref().and_then(|size| size.get(key));
        number_in(value, key, default, 1..=u64::from(u32::MAX))
    };
    Ok((bound("shortest_edge", MIN_PIXELS)?, bound("longest_edge", MAX_PIXELS)?))
}

/// `np.linspace(0, total - 1, count).round()`, `count` being a number of frames in a second within its bounds.
pub(super) fn indices(total: usize, wanted: f64, least: u64, most: u64) -> Vec<usize> {
    let count = (wanted as u64).max(least).min(most).clamp(1, total as u64);
    let last = total - 1;
    let step = last as f64 / (count - 1).max(1) as f64;
    let at = |index: u64| match index + 1 == count && count > 1 {
        true => last,
        false => ((index as f64 * step).round_ties_even() as usize).min(last),
    };
    (0..count).map(at).collect()
}

/// What a frame of `size` becomes. A budget is of one frame; its most pixels are within the configured bound of all.
pub(super) fn resized(
    image: &ImageProcessor,
    size: Size,
    frames: usize,
    budget: &PixelBudget,
) -> Result<Size, Error> {
    image.limits.check_size(size)?;
    if budget.max_pixels == Some(0) {
        return Err(Error::config("max_pixels", "expected at least 1, found 0"));
    }
    let per_patch = image.layout.frames;
    let all = |of_one: u64| of_one.saturating_mul(frames.max(per_patch) as u64);
    let (min, max) = (image.min_pixels, image.max_pixels);
    let min = budget.min_pixels.map_or(min, all);
    let max = budget.max_pixels.map_or(max, |most| all(most).min(max));
    smart_resize_frames(size, (frames, per_patch), image.factor(), min, max)
}

/// The seconds at which patches are: the mean of those of their first and last frame, the last one being repeated.
pub(super) fn patch_times(sampled: &Sampled, per_patch: usize) -> Vec<f64> {
    let time = |index: &usize| *index as f64 / sampled.source_fps;
    let last = sampled.indices.last();
    let mean = |patch: &[usize]| {
        let end = if patch.len() == per_patch { patch.last() } else { last };
        (patch.first().map_or(0.0, time) + end.map_or(0.0, time)) / 2.0
    };
    sampled.indices.chunks(per_patch).map(mean).collect()
}
