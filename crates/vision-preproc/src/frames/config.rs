//! `preprocessor_config.json` of the processors that make frames.

use serde_json::{Map, Value};

use super::FrameProcessor;
use super::fit::Fit;
use crate::canvas::{Canvas, ChannelOrder};
use crate::keys::{CLIP, factor, filter, flag, mean_and_std, number_in};
use crate::normalize::Table;
use crate::{Error, Limits, Mode, PassOrder, Rescale, Size};

/// As transformers writes it down.
const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const HALF: [[f32; 3]; 2] = [[0.5; 3]; 2];

/// Sides of frames and of images on the way to them; transformers has no larger one either for SmolVLM.
const SIDES: std::ops::RangeInclusive<u64> = 1..=4096;

/// A family of processors.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Clip,
    Llava,
    Siglip,
    Tiles,
}

fn family(kind: &str) -> Option<Family> {
    match kind.strip_suffix("Fast").or(kind.strip_suffix("Pil")).unwrap_or(kind) {
        "CLIPImageProcessor" | "CLIPFeatureExtractor" => Some(Family::Clip),
        "LlavaImageProcessor" => Some(Family::Llava),
        "SiglipImageProcessor" | "Gemma3ImageProcessor" => Some(Family::Siglip),
        "Idefics3ImageProcessor" | "SmolVLMImageProcessor" => Some(Family::Tiles),
        _ => None,
    }
}

pub(super) fn knows(kind: &str) -> bool {
    family(kind).is_some()
}

pub(super) fn parse(keys: &Map<String, Value>) -> Result<FrameProcessor, Error> {
    let kind = keys.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
    let family = family(kind).ok_or_else(|| {
        let known = "a processor of CLIP, LLaVA, SigLIP, Gemma 3, Idefics3 or SmolVLM";
        Error::config("image_processor_type", format!("expected {known}, found `{kind}`"))
    })?;
    // Without this step the frames have the size of the image, which no model here takes.
    if !flag(keys, "do_resize", true)? {
        return Err(Error::config("do_resize", "expected true, found false"));
    }
    // More frames of parts of the image, which no model here is asked for.
    if flag(keys, "do_pan_and_scan", false)? {
        return Err(Error::config("do_pan_and_scan", "expected false, found true"));
    }
    let default = if matches!(family, Family::Clip | Family::Llava) { CLIP } else { HALF };
    let [mean, std] = mean_and_std(keys, default)?;
    let (fit, frame) = match family {
        Family::Clip => crop(keys)?,
        Family::Llava if flag(keys, "do_pad", false)? => {
            let frame = crop(keys)?.1;
            (Fit::PadToSquare { color: mean_color(keys) }, frame)
        }
        Family::Llava => crop(keys)?,
        Family::Siglip => (Fit::Stretch, both_sides(keys, "size", 224)?),
        Family::Tiles => tiles(keys)?,
    };
    let factor = factor(keys)?;
    let table = Table::new(Rescale::default(), factor, mean, std);
    Ok(FrameProcessor {
        fit,
        canvas: Canvas::new(frame, ChannelOrder::Chw, table),
        filter: filter(keys, if family == Family::Tiles { 1 } else { 3 })?,
        order: PassOrder::default(),
        factor,
        mean,
        std,
        limits: Limits::default(),
        mode: Mode::default(),
    })
}

/// A shortest edge and a square in its middle. Larger squares, which transformers fills with black, are refused.
fn crop(keys: &Map<String, Value>) -> Result<(Fit, Size), Error> {
    let shortest_edge = edge(keys, "size", "shortest_edge", 224)?;
    if !flag(keys, "do_center_crop", true)? {
        return Err(Error::config("do_center_crop", "expected true, found false"));
    }
    let frame = both_sides(keys, "crop_size", 224)?;
    if frame.width != frame.height || frame.width > shortest_edge {
        return Err(Error::config(
            "crop_size",
            format!("expected a square of at most {shortest_edge}, found {frame}"),
        ));
    }
    Ok((Fit::Crop { shortest_edge }, frame))
}

fn tiles(keys: &Map<String, Value>) -> Result<(Fit, Size), Error> {
    let longest_edge = edge(keys, "size", "longest_edge", 4 * 364)?;
    let side = edge(keys, "max_image_size", "longest_edge", 364)?;
    let frame = Size { width: side, height: side };
    if flag(keys, "do_image_splitting", true)? {
        return Ok((Fit::Tiles { longest_edge }, frame));
    }
    Err(Error::config("do_image_splitting", "expected true, found false"))
}

/// The mean as a colour, rounded down; the numbers of the file are wider than those that normalise.
fn mean_color(keys: &Map<String, Value>) -> [u8; 3] {
    [0, 1, 2].map(|channel| {
        let mean = keys.get("image_mean").and_then(|mean| mean.get(channel)?.as_f64());
        (mean.unwrap_or(CLIP_MEAN[channel]) * 255.0) as u8
    })
}

/// A number by itself, as older files have it, or under `name`.
fn edge(keys: &Map<String, Value>, key: &str, name: &str, default: u64) -> Result<u32, Error> {
    let value = keys.get(key).map(|value| value.get(name).unwrap_or(value));
    Ok(number_in(value, key, default, SIDES)? as u32)
}

/// A number by itself, or `height` and `width`.
fn both_sides(keys: &Map<String, Value>, key: &str, default: u64) -> Result<Size, Error> {
    Ok(Size {
        width: edge(keys, key, "width", default)?,
        height: edge(keys, key, "height", default)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str, keys: &str) -> String {
        match FrameProcessor::from_json(&format!(r#"{{"image_processor_type": "{kind}"{keys}}}"#)) {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a configuration error, found {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(field("ViTImageProcessor", ""), "image_processor_type");
        assert_eq!(field("CLIPImageProcessor", r#", "size": {"height": 224}"#), "size");
        assert_eq!(field("CLIPImageProcessor", r#", "crop_size": 225"#), "crop_size");
        assert_eq!(
            field("CLIPImageProcessorFast", r#", "do_center_crop": false"#),
            "do_center_crop"
        );
        assert_eq!(field("SiglipImageProcessor", r#", "size": 5000"#), "size");
        assert_eq!(
            field("SmolVLMImageProcessor", r#", "do_image_splitting": false"#),
            "do_image_splitting"
        );
        assert_eq!(field("LlavaImageProcessor", r#", "resample": 0"#), "resample");
        assert_eq!(field("LlavaImageProcessor", r#", "image_std": [1, 1, 0]"#), "image_std");
    }

    #[test]
    fn older_files_have_bare_numbers() {
        let processor = FrameProcessor::from_json(
            r#"{"image_processor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}"#,
        )
        .unwrap();
        assert_eq!(processor.fit, Fit::Crop { shortest_edge: 336 });
        assert_eq!(processor.frame_size(), Size { width: 336, height: 336 });
    }
}
