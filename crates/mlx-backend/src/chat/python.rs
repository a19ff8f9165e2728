//! Values as Python writes them: `str`, `repr` and `json.dumps`, which chat templates were made for.

use std::fmt::Write as _;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

/// Nesting that is written; deeper values only a hostile template makes.
const MAX_DEPTH: usize = 64;

/// Returns `str(value)`; of an undefined value, nothing.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = String::new();
    if !value.is_undefined() {
        Writer { out: &mut out, style: &Style::Repr }.write(value, 0)?;
    }
    Ok(out)
}

/// Returns `json.dumps(value)` with the options that transformers gives the filter `tojson`.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        None => None,
        Some(pair) => {
            Some((pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()))
        }
    };
    let item = if indent.is_some() { "," } else { ", " };
    let (item, colon) = separators.unwrap_or_else(|| (item.to_owned(), ": ".to_owned()));
    let style = Style::Json {
        indent: indent.map(|n| " ".repeat(n.min(MAX_DEPTH))),
        item,
        colon,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    Writer { out: &mut out, style: &style }.write(value, 0)?;
    Ok(out)
}

enum Style {
    Repr,
    Json { indent: Option<String>, item: String, colon: String, ascii: bool, sorted: bool },
}

struct Writer<'a> {
    out: &'a mut String,
    style: &'a Style,
}

impl Writer<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let fail = |what: String| Err(Error::new(ErrorKind::BadSerialization, what));
        if depth > MAX_DEPTH {
            return fail(format!("values are nested more than {MAX_DEPTH} deep"));
        }
        let json = matches!(self.style, Style::Json { .. });
        match value.kind() {
            ValueKind::None => self.out.push_str(if json { "null" } else { "None" }),
            ValueKind::Bool => self.out.push_str(match (json, value.is_true()) {
                (true, true) => "true",
                (true, false) => "false",
                (false, true) => "True",
                (false, false) => "False",
            }),
            ValueKind::Number if value.is_integer() => {
                let _ = write!(self.out, "{value}");
            }
            ValueKind::Number => self.float(f64::try_from(value.clone())?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(['[', ']'], &items, depth, |this, item| this.write(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if matches!(self.style, Style::Json { sorted: true, .. }) {
                    keys.sort();
                }
                self.items(['{', '}'], &keys, depth, |this, key| {
                    match (this.style, key.as_str()) {
                        (Style::Json { .. }, None) => this.text(&to_str(key)?),
                        _ => this.write(key, depth + 1)?,
                    }
                    let colon = match this.style {
                        Style::Json { colon, .. } => colon,
                        Style::Repr => ": ",
                    };
                    this.out.push_str(colon);
                    this.write(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind if json => return fail(format!("a value of kind {kind} is not JSON")),
            _ => {
                let _ = write!(self.out, "{value}");
            }
        }
        Ok(())
    }

    fn items(
        &mut self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (separator, indent) = match self.style {
            Style::Json { item, indent, .. } => (item.as_str(), indent.as_deref()),
            Style::Repr => (", ", None),
        };
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = indent.filter(|_| !items.is_empty()) {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent, depth));
            }
        };
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(separator);
            }
            new_line(self.out, depth + 1);
            write(self, item)?;
        }
        new_line(self.out, depth);
        self.out.push(close);
        Ok(())
    }

    /// Rust writes the same digits as Python, but `1e16` for `1e+16` and `1e-5` for `1e-05`.
    fn float(&mut self, x: f64) {
        let json = matches!(self.style, Style::Json { .. });
        if !x.is_finite() {
            let name = match (json, x.is_nan()) {
                (true, true) => "NaN",
                (false, true) => "nan",
                (true, false) => "Infinity",
                (false, false) => "inf",
            };
            self.out.push_str(if x < 0.0 { "-" } else { "" });
            self.out.push_str(name);
            return;
        }
        let digits = format!("{x:?}");
        let _ = match digits.split_once('e') {
            None => write!(self.out, "{digits}"),
            Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
                Some(exponent) => write!(self.out, "{mantissa}e-{exponent:0>2}"),
                None => write!(self.out, "{mantissa}e+{exponent:0>2}"),
            },
        };
    }

    fn text(&mut self, text: &str) {
        let Style::Json { ascii, .. } = self.style else { return self.repr(text) };
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (*ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn repr(&mut self, text: &str) {
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        self.out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c == quote => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                c if c < ' ' || c == '\u{7f}' => {
                    let _ = write!(self.out, "\\x{:02x}", u32::from(c));
                }
                c => self.out.push(c),
            }
        }
        self.out.push(quote);
    }
}
