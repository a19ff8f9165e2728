//! The pairs of key and value.

use std::{collections::BTreeMap, io::Read};

use super::source::Source;

/// Longest key; the format's own limit.
const MAX_KEY_BYTES: u64 = 65_535;
/// Longest text. Chat templates have 30 kB.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// Where tensors begin at multiples of, if the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value, in fewer types than the format has.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Texts(Vec<String>),
    /// An array that nothing here needs.
    Others,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Integers(_) => "an array of whole numbers",
            Self::Texts(_) => "an array of texts",
            Self::Others => "an array of floats or truth values",
        }
    }
}

/// All pairs of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Reads `count` pairs.
    ///
    /// # Errors
    /// A sentence with the place at which that is not possible.
    pub(super) fn read<R: Read>(source: &mut Source<R>, count: u64) -> Result<Self, String> {
        // A key of no bytes, a type, and a byte.
        source.expect("metadata pairs", count, 8 + 4 + 1)?;
        let mut pairs = BTreeMap::new();
        for _ in 0..count {
            let key = source.text("a key", MAX_KEY_BYTES)?;
            let kind = source.u32("the type of a value")?;
            let value = read_value(source, &key, kind)?;
            if pairs.insert(key.clone(), value).is_some() {
                return Err(source.corrupt(&format!("the key `{key}` is there twice")));
            }
        }
        Ok(Self(pairs))
    }

    /// Returns what tensors begin at multiples of.
    ///
    /// # Errors
    /// If it is no power of two from 1 to 2²⁰.
    pub(super) fn alignment(&self) -> Result<u64, String> {
        let found = self.number("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        match found.is_power_of_two() && found <= MAX_ALIGNMENT {
            true => Ok(found),
            false => Err(format!(
                "expected `general.alignment` as a power of two up to {MAX_ALIGNMENT}, found {found}"
            )),
        }
    }

    /// Returns the whole number `key`, at least 0; `None` if there is none.
    ///
    /// # Errors
    /// A sentence with what it is instead; so do those below.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(&Value::Integer(value)) => u64::try_from(value)
                .map(Some)
                .map_err(|_| format!("expected `{key}` of at least 0, found {value}")),
            Some(other) => Err(unexpected(key, "a whole number", other)),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(&Value::Float(value)) if value.is_finite() => Ok(Some(value)),
            Some(Value::Float(value)) => {
                Err(format!("expected `{key}` to be finite, found {value}"))
            }
            Some(other) => Err(unexpected(key, "a float", other)),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(other) => Err(unexpected(key, "a text", other)),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Texts(values)) => Ok(Some(values)),
            Some(other) => Err(unexpected(key, "an array of texts", other)),
        }
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&[i64]>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Integers(values)) => Ok(Some(values)),
            Some(other) => Err(unexpected(key, "an array of whole numbers", other)),
        }
    }
}

/// Returns `value`, which must be there.
///
/// # Errors
/// A sentence that says that it is not.
pub(super) fn need<T>(value: Option<T>, key: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("expected `{key}` in the metadata, found none"))
}

fn unexpected(key: &str, expected: &str, found: &Value) -> String {
    format!("expected `{key}` as {expected}, found {}", found.kind())
}

/// Types by their numbers.
mod kinds {
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const FLOATS: [u32; 2] = [6, 12];
}

fn read_value<R: Read>(source: &mut Source<R>, key: &str, kind: u32) -> Result<Value, String> {
    match kind {
        kinds::TEXT => source.text(&format!("`{key}`"), MAX_TEXT_BYTES).map(Value::Text),
        kinds::ARRAY => read_array(source, key),
        _ => read_scalar(source, key, kind),
    }
}

fn read_scalar<R: Read>(source: &mut Source<R>, key: &str, kind: u32) -> Result<Value, String> {
    Ok(match kind {
        0 => Value::Integer(u8::from_le_bytes(source.bytes(key)?).into()),
        1 => Value::Integer(i8::from_le_bytes(source.bytes(key)?).into()),
        2 => Value::Integer(u16::from_le_bytes(source.bytes(key)?).into()),
        3 => Value::Integer(i16::from_le_bytes(source.bytes(key)?).into()),
        4 => Value::Integer(u32::from_le_bytes(source.bytes(key)?).into()),
        5 => Value::Integer(i32::from_le_bytes(source.bytes(key)?).into()),
        6 => Value::Float(f32::from_le_bytes(source.bytes(key)?).into()),
        kinds::BOOL => match source.bytes(key)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => {
                return Err(source.corrupt(&format!("`{key}` is a truth value of {other}")));
            }
        },
        10 => Value::Integer(u64::from_le_bytes(source.bytes(key)?).into()),
        11 => Value::Integer(i64::from_le_bytes(source.bytes(key)?).into()),
        12 => Value::Float(f64::from_le_bytes(source.bytes(key)?)),
        other => {
            return Err(
                source.corrupt(&format!("`{key}` is of type {other}, which there is none of"))
            );
        }
    })
}

fn read_array<R: Read>(source: &mut Source<R>, key: &str) -> Result<Value, String> {
    let kind = source.u32("the type of an array")?;
    let count = source.u64("the length of an array")?;
    if kind == kinds::ARRAY {
        return Err(source.corrupt(&format!("`{key}` is an array of arrays, which is not read")));
    }
    // A text takes the bytes of its length at least.
    let least = if kind == kinds::TEXT { 8 } else { 1 };
    source.expect(&format!("the array `{key}`"), count, least)?;
    if kind == kinds::TEXT {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(source.text(&format!("an entry of `{key}`"), MAX_TEXT_BYTES)?);
        }
        return Ok(Value::Texts(texts));
    }
    let mut integers = Vec::new();
    for _ in 0..count {
        // Others are read for what follows.
        if let Value::Integer(value) = read_scalar(source, key, kind)? {
            integers.push(i64::try_from(value).map_err(|_| {
                source.corrupt(&format!("an entry of `{key}` is {value}, beyond 64 bits"))
            })?);
        }
    }
    let is_other = kind == kinds::BOOL || kinds::FLOATS.contains(&kind);
    Ok(if is_other { Value::Others } else { Value::Integers(integers) })
}
