//! Which providers there are: those of this build, and those that a program brings.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use llm_core::{Error, Provider, Result};

use crate::{Config, config::hint, reader::invalid};

/// Makes a provider from its settings.
pub(crate) type Constructor = Arc<dyn Fn(Config) -> Result<Box<dyn Provider>> + Send + Sync>;

type Named = (&'static str, fn(Config) -> Result<Box<dyn Provider>>);

/// The providers of this build.
const OWN: &[Named] = &[
    #[cfg(feature = "anthropic")]
    (http_backend::AnthropicProvider::NAME, crate::settings::http::anthropic),
    #[cfg(feature = "mlx")]
    (mlx_backend::PROVIDER, crate::settings::mlx::create),
    #[cfg(feature = "openai")]
    (http_backend::OpenAiProvider::NAME, crate::settings::http::openai),
];

static REGISTERED: RwLock<BTreeMap<String, Constructor>> = RwLock::new(BTreeMap::new());

/// Makes `create_llm(name, ...)` call `construct`, which gets the settings of all sources together and
/// runs only then. [`ConfigReader`](crate::ConfigReader) turns them into typed values.
///
/// ```
/// use abstractllm::{
///     Config, ConfigReader, Provider, Result, create_llm, register_provider,
///     testing::{Script, ScriptedProvider},
/// };
///
/// fn parrot(config: Config) -> Result<Box<dyn Provider>> {
///     let mut reader = ConfigReader::new(config);
///     let says = reader.text("says").unwrap_or_else(|| "Hello!".to_owned());
///     reader.finish()?;
///     Ok(Box::new(ScriptedProvider::new([Script::text(&says)])))
/// }
///
/// register_provider("parrot", parrot)?;
/// let llm = create_llm("parrot", [("says", "Polly")])?;
/// assert!(create_llm("parrot", [("sais", "Polly")]).unwrap_err().to_string().contains("`says`"));
/// # Ok::<(), abstractllm::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) if the name is taken, or is not one of `a-z 0-9 _ -`.
pub fn register_provider(
    name: impl Into<String>,
    construct: impl Fn(Config) -> Result<Box<dyn Provider>> + Send + Sync + 'static,
) -> Result<()> {
    let name = name.into();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(good) {
        return Err(invalid(format!(
            "expected a provider name of `a-z`, `0-9`, `_` or `-`, found `{name}`"
        )));
    }
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if registered.contains_key(&name) || OWN.iter().any(|(own, _)| *own == name) {
        return Err(invalid(format!("there is a provider `{name}` already")));
    }
    registered.insert(name, Arc::new(construct));
    Ok(())
}

/// Returns the names that [`create_llm`](crate::create_llm) knows, in alphabetical order.
#[must_use]
pub fn available_providers() -> Vec<String> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    let own = OWN.iter().map(|(name, _)| (*name).to_owned());
    let mut names: Vec<String> = own.chain(registered.keys().cloned()).collect();
    names.sort();
    names
}

/// Returns what makes the provider `name`.
///
/// # Errors
/// That names the nearest provider, or all.
pub(crate) fn find(name: &str) -> Result<Constructor> {
    if let Some((_, construct)) = OWN.iter().find(|(own, _)| *own == name) {
        return Ok(Arc::new(*construct));
    }
    // The lock is not held while a provider is made: that may take minutes.
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    registered.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Error {
    let known = available_providers();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let help = hint(name, &known, || match known.is_empty() {
        true => "this build has none: enable a feature such as `mlx`".to_owned(),
        false => format!("known providers: {}", known.join(", ")),
    });
    invalid(format!("unknown provider `{name}`; {help}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use llm_core::testing::{Script, ScriptedProvider};

    use super::*;
    use crate::create_llm;

    #[test]
    fn a_provider_of_a_program_is_made_when_it_is_asked_for() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        register_provider("test-registry", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(ScriptedProvider::new([Script::text("hi")])))
        })
        .unwrap();
        assert!(available_providers().contains(&"test-registry".to_owned()));
        assert_eq!(made.load(Ordering::SeqCst), 0);
        create_llm("test-registry", Config::default()).unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 1);
        let error = register_provider("test-registry", |_| unreachable!()).unwrap_err();
        assert_eq!(error.to_string(), "there is a provider `test-registry` already");
    }

    #[test]
    fn names_are_checked() {
        for name in ["", "My Provider", "é"] {
            let error = register_provider(name, |_| unreachable!()).unwrap_err();
            assert!(error.to_string().ends_with(&format!("found `{name}`")), "{error}");
        }
    }

    #[test]
    fn an_unknown_provider_is_named() {
        register_provider("test-nearest", |_| unreachable!()).unwrap();
        let error = create_llm("test-neerest", Config::default()).unwrap_err().to_string();
        assert_eq!(error, "unknown provider `test-neerest`; did you mean `test-nearest`?");
        let error = create_llm("colour", Config::default()).unwrap_err().to_string();
        assert!(error.starts_with("unknown provider `colour`; known providers: "), "{error}");
    }

    #[test]
    #[cfg(feature = "mlx")]
    fn the_names_of_this_build_are_taken() {
        let error = register_provider("mlx", |_| unreachable!()).unwrap_err();
        assert_eq!(error.to_string(), "there is a provider `mlx` already");
    }
}
