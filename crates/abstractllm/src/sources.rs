//! Where settings come from besides the program: a file and the environment.

use std::{collections::BTreeMap, fs, path::Path};

use llm_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::{
    Config, available_providers,
    config::hint,
    reader::{ALIASES, PARAMS, invalid},
};

const PREFIX: &str = "ABSTRACTLLM_";

/// Names a file of settings.
const FILE: &str = "ABSTRACTLLM_CONFIG";

/// Variables with the prefix that are no settings: the file, and what is read when building, by
/// `embedded` and by the command `serve`.
const NO_SETTINGS: [&str; 4] =
    [FILE, "ABSTRACTLLM_API_KEY", "ABSTRACTLLM_CACHE", "ABSTRACTLLM_MLX"];

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Returns the settings of `provider`: those of the program over those of the environment over those of
/// the file that the environment names.
///
/// # Errors
/// That names the file or the variable, and the key that is unknown or given twice.
pub(crate) fn gather(
    provider: &str,
    program: Config,
    variables: &BTreeMap<String, String>,
) -> Result<Config> {
    let mut settings = match variables.get(FILE).filter(|path| !path.is_empty()) {
        Some(path) => read_file(Path::new(path), provider)?,
        None => BTreeMap::new(),
    };
    settings.extend(of_environment(provider, variables)?);
    settings.extend(canonical("the settings", program.into_inner())?);
    Ok(Config::from(settings))
}

/// Returns the variables of this process that may be settings.
///
/// # Errors
/// If one of them is not Unicode.
pub(crate) fn variables() -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| invalid(format!("{name}: not Unicode")))?;
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

/// Returns the settings of `provider` in a file: `.toml`, or JSON of the same form.
///
/// # Errors
/// If it cannot be read, or holds what is no setting.
pub(crate) fn read_file(path: &Path, provider: &str) -> Result<BTreeMap<String, String>> {
    let place = path.display().to_string();
    let io = |e: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot read {place}: {e}")).with_source(e)
    };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > MAX_FILE_BYTES {
        return Err(invalid(format!(
            "{place}: expected at most {MAX_FILE_BYTES} bytes, found {length}"
        )));
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let is_toml = path.extension().is_some_and(|extension| extension == "toml");
    let parsed: Result<BTreeMap<String, Value>, String> = match is_toml {
        // Errors of both name line and column.
        true => toml::from_str(&text).map_err(|e| e.to_string()),
        false => serde_json::from_str(&text).map_err(|e| e.to_string()),
    };
    let parsed = parsed.map_err(|e| invalid(format!("{place}: {}", e.trim())))?;
    let (mut general, mut own) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in parsed {
        match value {
            Value::Object(table) if !is_shared(&key) => {
                check_provider(&place, &key)?;
                if key == provider {
                    for (key, value) in table {
                        own.insert(key.clone(), text_of(&place, &key, value)?);
                    }
                }
            }
            value => {
                check_shared(&place, &key, &format!("[{provider}]"))?;
                general.insert(key.clone(), text_of(&place, &key, value)?);
            }
        }
    }
    let mut settings = canonical(&place, general)?;
    settings.extend(canonical(&place, own)?);
    Ok(settings)
}

/// Returns the settings of `provider` in the environment; those with its name win over those without.
fn of_environment(
    provider: &str,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let (mut general, mut own) = (BTreeMap::new(), BTreeMap::new());
    let owner = |key: &str| {
        let mut names = available_providers().into_iter().filter_map(|name| {
            let rest = key.strip_prefix(&name.replace('-', "_"))?.strip_prefix('_')?.to_owned();
            Some((name, rest))
        });
        names.next()
    };
    let settings = variables.iter().filter(|(name, _)| !NO_SETTINGS.contains(&name.as_str()));
    for (name, value) in settings {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        let key = key.to_lowercase();
        match owner(&key).filter(|_| !is_shared(&key)) {
            Some((owner, key)) if owner == provider => {
                own.insert(key, value.clone());
            }
            // Another provider's, which reads it when it is made.
            Some(_) => {}
            None => {
                let prefix = provider.to_uppercase().replace('-', "_");
                check_shared(name, &key, &format!("{PREFIX}{prefix}_..."))?;
                general.insert(key, value.clone());
            }
        }
    }
    let mut settings = canonical("the environment", general)?;
    settings.extend(canonical("the environment", own)?);
    Ok(settings)
}

/// Gives each key the name that we have for it.
fn canonical(place: &str, settings: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in settings {
        let name = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(&*key, |(_, name)| name);
        if named.contains_key(name) {
            return Err(invalid(format!("{place}: `{name}` is given twice, once by another name")));
        }
        named.insert(name.to_owned(), value);
    }
    Ok(named)
}

fn is_shared(key: &str) -> bool {
    key == "model" || PARAMS.contains(&key) || ALIASES.iter().any(|(alias, _)| *alias == key)
}

/// Checks that a key is one that every provider has.
fn check_shared(place: &str, key: &str, own: &str) -> Result<()> {
    if is_shared(key) {
        return Ok(());
    }
    let help = hint(key, PARAMS, || format!("a key of one provider belongs to {own}"));
    Err(invalid(format!("{place}: unknown key `{key}`; {help}")))
}

fn check_provider(place: &str, name: &str) -> Result<()> {
    // A file may have settings for providers that this build leaves out.
    let mut known = available_providers();
    known.extend(["anthropic", "mlx", "openai"].map(str::to_owned));
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let all = || format!("known providers: {}", available_providers().join(", "));
    let help = hint(name, &known, all);
    Err(invalid(format!("{place}: unknown provider `{name}`; {help}")))
}

fn text_of(place: &str, key: &str, value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Err(invalid(format!("{place}: `{key}`: expected a value, found null"))),
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(
        provider: &str,
        program: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Result<Config> {
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        gather(provider, program.iter().copied().collect(), &variables)
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        (dir, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_nearer_source_wins() {
        let toml = "temperature = 0.1\ntop_k = 1\nseed = 1\ntop_p = 0.1\nmin_p = 0.1\n\
                    [parrot]\ntop_k = 2\nseed = 2\ntop_p = 0.2\nmin_p = 0.2\nwidth = 2\n\
                    [mlx]\ntop_k = 9\nquantize = true\n";
        let (_dir, path) = file("settings.toml", toml);
        // A provider's key in the file, both in the environment, and in the program: one source more
        // for each key.
        crate::register_provider("parrot", |_| unreachable!()).unwrap();
        let variables = [
            (FILE, path.as_str()),
            ("ABSTRACTLLM_SEED", "3"),
            ("ABSTRACTLLM_TOP_P", "0.3"),
            ("ABSTRACTLLM_MIN_P", "0.3"),
            ("ABSTRACTLLM_PARROT_TOP_P", "0.4"),
            ("ABSTRACTLLM_PARROT_MIN_P", "0.4"),
            ("ABSTRACTLLM_PARROT_COLOUR", "red"),
            ("ABSTRACTLLM_MLX", "cuda13"),
        ];
        let found = gathered("parrot", &[("min_p", "0.5")], &variables).unwrap();
        let expected = [
            ("temperature", "0.1"),
            ("top_k", "2"),
            ("seed", "3"),
            ("top_p", "0.4"),
            ("min_p", "0.5"),
            ("width", "2"),
            ("colour", "red"),
        ];
        assert_eq!(found, Config::from(expected));
    }

    #[test]
    fn variables_that_others_read_are_no_settings() {
        // The server's key was refused as a setting of every provider.
        let variables = ["API_KEY", "CACHE", "MLX"].map(|name| format!("{PREFIX}{name}"));
        let variables = variables.each_ref().map(|name| (name.as_str(), "x"));
        for provider in ["mlx", "openai"] {
            assert_eq!(gathered(provider, &[], &variables).unwrap(), Config::default());
        }
    }

    #[test]
    fn json_says_the_same_as_toml() {
        let toml = "stop = [\"a\", \"b\"]\n[logit_bias]\n7 = 1.5\n[mlx]\nmodel = \"m\"\n";
        let json = r#"{"stop": ["a", "b"], "logit_bias": {"7": 1.5}, "mlx": {"model": "m"}}"#;
        let expected = [("stop", r#"["a","b"]"#), ("logit_bias", r#"{"7":1.5}"#), ("model", "m")];
        for (name, text) in [("a.toml", toml), ("a.json", json)] {
            let (_dir, path) = file(name, text);
            let found = read_file(Path::new(&path), "mlx").unwrap();
            assert_eq!(Config::from(found), Config::from(expected), "{name}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (name, text, says) in [
            ("a.toml", "temprature = 1", "unknown key `temprature`; did you mean `temperature`?"),
            (
                "a.toml",
                "quantize = true",
                "unknown key `quantize`; a key of one provider belongs to [mlx]",
            ),
            ("a.toml", "[opnai]\nmodel = 'm'", "unknown provider `opnai`; did you mean `openai`?"),
            ("a.toml", "temperature = ", "line 1, column 15"),
            ("a.json", "{\"a\": ", "at line 1 column 6"),
            ("a.json", "{\"seed\": null}", "`seed`: expected a value, found null"),
            ("a.toml", "system = 'a'\nsystem_prompt = 'b'", "`system` is given twice"),
        ] {
            let (_dir, path) = file(name, text);
            let error = read_file(Path::new(&path), "mlx").unwrap_err().to_string();
            assert!(error.starts_with(&path) && error.contains(says), "{text}: {error}");
        }
        let error = gathered("mlx", &[], &[("ABSTRACTLLM_TOPP", "1")]).unwrap_err().to_string();
        assert_eq!(error, "ABSTRACTLLM_TOPP: unknown key `topp`; did you mean `top_p`?");
        let error = gathered("mlx", &[], &[(FILE, "no-such-file.toml")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    #[test]
    fn another_name_overrides_across_sources() {
        let variables = [("ABSTRACTLLM_SYSTEM_PROMPT", "a")];
        let found = gathered("mlx", &[("system", "b")], &variables).unwrap();
        assert_eq!(found, Config::from([("system", "b")]));
    }
}
