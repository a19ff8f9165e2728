//! The keys that processor configurations of all families have in common.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Error, Filter};

/// Mean and standard deviation of CLIP.
pub(crate) const CLIP: [[f32; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];

/// A switch, `default` if the file does not have it.
pub(crate) fn flag(keys: &Map<String, Value>, key: &str, default: bool) -> Result<bool, Error> {
    match keys.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(Error::config(key, format!("expected true or false, found {other}"))),
    }
}

/// An integer within `range`, `default` if there is none; `key` is its name in errors.
pub(crate) fn number_in(
    value: Option<&Value>,
    key: &str,
    default: u64,
    range: RangeInclusive<u64>,
) -> Result<u64, Error> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(default) };
    value.as_u64().filter(|number| range.contains(number)).ok_or_else(|| {
        let (low, high) = (range.start(), range.end());
        Error::config(key, format!("expected an integer from {low} to {high}, found {value}"))
    })
}

/// `resample`, by Pillow's numbers. 0 is nearest neighbour, which is no filter of this crate.
pub(crate) fn filter(keys: &Map<String, Value>, default: u64) -> Result<Filter, Error> {
    Ok(match number_in(keys.get("resample"), "resample", default, 1..=5)? {
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        4 => Filter::Box,
        5 => Filter::Hamming,
        _ => Filter::Bicubic,
    })
}

/// `rescale_factor`, 1 if `do_rescale` is off.
pub(crate) fn factor(keys: &Map<String, Value>) -> Result<f64, Error> {
    match keys.get("rescale_factor") {
        _ if !flag(keys, "do_rescale", true)? => Ok(1.0),
        None | Some(Value::Null) => Ok(1.0 / 255.0),
        Some(value) => value.as_f64().ok_or_else(|| {
            Error::config("rescale_factor", format!("expected a number, found {value}"))
        }),
    }
}

/// `image_mean` and `image_std`, 0 and 1 if `do_normalize` is off.
pub(crate) fn mean_and_std(
    keys: &Map<String, Value>,
    default: [[f32; 3]; 2],
) -> Result<[[f32; 3]; 2], Error> {
    if !flag(keys, "do_normalize", true)? {
        return Ok([[0.0; 3], [1.0; 3]]);
    }
    let mean = triple(keys, "image_mean", default[0])?;
    let std = triple(keys, "image_std", default[1])?;
    if std.contains(&0.0) {
        return Err(Error::config("image_std", "expected no zero, found one"));
    }
    Ok([mean, std])
}

fn triple(keys: &Map<String, Value>, key: &str, default: [f32; 3]) -> Result<[f32; 3], Error> {
    let value = match keys.get(key) {
        None | Some(Value::Null) => return Ok(default),
        Some(value) => value,
    };
    let numbers: Option<Vec<f32>> = value
        .as_array()
        .and_then(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect());
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| Error::config(key, format!("expected three numbers, found {value}")))
}

/// The keys of both configuration files of a model: those of `image_processor` in `processor` win over
/// `preprocessor`.
pub(crate) fn of_both_files(
    preprocessor: Option<&str>,
    processor: Option<&str>,
) -> Result<Map<String, Value>, Error> {
    let mut keys = Map::new();
    for (file, text) in
        [("preprocessor_config.json", preprocessor), ("processor_config.json", processor)]
    {
        let Some(text) = text else { continue };
        let mut object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| Error::config(file, error.to_string()))?;
        match object.remove("image_processor") {
            Some(Value::Object(inner)) => keys.extend(inner),
            Some(other) => {
                return Err(Error::config(
                    "image_processor",
                    format!("expected an object, found {other}"),
                ));
            }
            // Without that object, processor_config.json says nothing about images.
            None if file == "preprocessor_config.json" => keys.extend(object),
            None => {}
        }
    }
    Ok(keys)
}
