//! Jinja as transformers sets it up for chat templates, with limits.
//!
//! The limits end a template that loops, nests or prints without end. What they do not bound is
//! the memory of values in between (a text that is joined with itself again and again), which the
//! engine has no hook for; load checkpoints only from whom you would take a program.

use std::{error::Error as StdError, fmt};

use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python;
use crate::engine::caught;

/// The name of the template in its environment.
pub(super) const NAME: &str = "chat";
/// Longest template. The longest published ones have 30 kB.
pub(super) const MAX_SOURCE_BYTES: usize = 512 << 10;
/// Steps that a template may take: ten messages take some hundreds.
const FUEL: u64 = 5_000_000;
/// Nesting that a template may reach, by macros or includes.
const MAX_RECURSION: usize = 64;

/// Returns an environment that holds the template `source`.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(write_like_python);
    environment.add_filter("tojson", python::to_json);
    environment.add_filter("string", python::to_str);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    contained(|| environment.add_template_owned(NAME, without_generation_blocks(source)))?;
    Ok(environment)
}

/// Calls the engine, in which a template that is none may lead to a panic.
pub(super) fn contained<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    caught(work).unwrap_or_else(|message| Err(Error::new(ErrorKind::InvalidOperation, message)))
}

/// Returns what the template said to `raise_exception`, if that is why it failed.
pub(super) fn refusal(error: &Error) -> Option<&str> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(Refusal(reason)) = error.downcast_ref() {
            return Some(reason);
        }
        next = error.source();
    }
    None
}

#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Refusal {}

fn raise_exception(reason: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(Refusal(reason)))
}

/// The local time, for templates that tell the model what day it is.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|e| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}"))
    })
}

/// Python counts texts and mappings among both, and Jinja what is not defined as an empty one.
fn is_sequence(value: &Value) -> bool {
    use minijinja::value::ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// Writes `{{ value }}`: `True` and `None` where Jinja for Rust would write `true` and `none`.
fn write_like_python(out: &mut Output<'_>, _: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::to_str(value)?),
    };
    written.map_err(|e| Error::new(ErrorKind::WriteFailure, "cannot write").with_source(e))
}

/// Makes `{% generation %}` blocks plain: they mark the model's answers for training, and the
/// engine does not know them.
fn without_generation_blocks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inside = &rest[start + "{%".len()..];
        let Some(length) = inside.find("%}") else { break };
        let length = "{%".len() + length;
        let tag = &rest[start..start + length];
        let word = tag["{%".len()..].trim_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => word,
        };
        plain.push_str(&rest[..start]);
        // The signs that trim white space stay as they are.
        plain.push_str(&tag.replacen(word, replacement, usize::from(word != replacement)));
        rest = &rest[start + length..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        environment(source)?.get_template(NAME)?.render(())
    }

    /// The end of a tag was looked for from its start on, and found there; found by fuzzing.
    #[test]
    fn a_tag_that_has_no_room_for_its_ends_is_no_template() {
        for source in ["{%}", "a {%}", "{%}%}", "{%"] {
            assert!(environment(source).is_err(), "{source}");
        }
    }

    /// The engine takes any expression for a name that something is imported as, and has no way to give it that;
    /// found by fuzzing.
    #[test]
    fn a_template_that_the_engine_panics_at_is_none() {
        let error = environment("{% import 'chat' as -c %}").unwrap_err().to_string();
        assert!(error.contains("panic"), "{error}");
    }

    #[test]
    fn generation_blocks_are_plain_text() {
        let source = "a {%- generation -%} b {% endgeneration +%} c{% raw %}{% x %}{% endraw %}";
        assert_eq!(render(source).unwrap(), "ab  c{% x %}");
        assert_eq!(
            without_generation_blocks("{% set x = '%}' %} {% if"),
            "{% set x = '%}' %} {% if"
        );
    }

    #[test]
    fn the_reason_of_a_refusal_is_found_inside_of_macros() {
        let source = "{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}";
        let error = render(source).unwrap_err();
        assert_eq!(refusal(&error), Some("no"));
        assert_eq!(refusal(&render("{{ none.x.y }}").unwrap_err()), None);
    }

    #[test]
    fn the_date_is_a_date() {
        let date = render("{{ strftime_now('%d %b %Y|%B|%H:%M') }}").unwrap();
        let today = jiff::Zoned::now();
        // Not midnight twice in a run of this test.
        assert!(date.contains(&today.year().to_string()), "{date}");
        assert_eq!(date.split('|').count(), 3);
        assert!(render("{{ strftime_now('%!') }}").is_err());
    }
}
