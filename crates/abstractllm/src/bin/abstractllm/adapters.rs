//! `--adapter`: the changes of the model that there are, and which of them answers.

use std::{collections::BTreeMap, path::Path, str::FromStr};

use abstractllm::{Config, Error, ErrorKind, Result};

/// The setting with the folders of adapters by their names.
const FOLDERS: &str = "adapters";

/// A folder with the name that it is to have, or one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdapterArg {
    Named(String, String),
    NameOrFolder(String),
}

impl FromStr for AdapterArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            // A folder may have an equals sign in its name.
            Some((name, folder)) if !name.contains('/') => {
                match name.trim() != name || name.is_empty() || folder.is_empty() {
                    true => {
                        Err("expected a name before and a folder after the equals sign".to_owned())
                    }
                    false => Ok(Self::Named(name.to_owned(), folder.to_owned())),
                }
            }
            _ if text.is_empty() => Err("expected a folder or a name".to_owned()),
            _ => Ok(Self::NameOrFolder(text.to_owned())),
        }
    }
}

/// Returns the folders of adapters in `settings`, by their names.
///
/// # Errors
/// If the setting is no such thing.
pub(crate) fn folders(settings: &Config) -> Result<BTreeMap<String, String>> {
    let parsed = settings.get(FOLDERS).map(serde_json::from_str).transpose();
    let invalid = |_| wrong(format!("`{FOLDERS}`: expected a JSON object of names and folders"));
    parsed.map(Option::unwrap_or_default).map_err(invalid)
}

/// Adds what the command line gives to the adapters in `settings`, and returns the names of what was given.
///
/// # Errors
/// If a name would be that of two folders, or a folder has no name.
pub(crate) fn add(settings: &mut Config, given: &[AdapterArg]) -> Result<Vec<String>> {
    let mut known = folders(settings)?;
    let mut names = Vec::new();
    for argument in given {
        let (name, folder) = match argument {
            AdapterArg::Named(name, folder) => (name.clone(), folder.clone()),
            AdapterArg::NameOrFolder(name) if known.contains_key(name) => {
                names.push(name.clone());
                continue;
            }
            AdapterArg::NameOrFolder(folder) => {
                let last = Path::new(folder).file_name().and_then(|name| name.to_str());
                let nameless = || wrong(format!("--adapter {folder}: expected NAME={folder}"));
                (last.ok_or_else(nameless)?.to_owned(), folder.clone())
            }
        };
        if let Some(other) = known.get(&name).filter(|other| **other != folder) {
            return Err(wrong(format!(
                "--adapter: `{name}` would be two adapters, {other} and {folder}; give one of them as NAME=FOLDER"
            )));
        }
        known.insert(name.clone(), folder);
        names.push(name);
    }
    if !names.is_empty() {
        let text = serde_json::to_string(&known);
        settings.set(FOLDERS, text.map_err(|e| wrong(e.to_string()))?);
    }
    Ok(names)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(settings: &[(&str, &str)], given: &[&str]) -> Result<(Vec<String>, String)> {
        let mut settings: Config = settings.iter().copied().collect();
        let given: Vec<AdapterArg> = given.iter().map(|text| text.parse().unwrap()).collect();
        let names = add(&mut settings, &given)?;
        Ok((names, settings.get(FOLDERS).unwrap_or_default().to_owned()))
    }

    #[test]
    fn a_folder_is_named_by_itself_or_by_what_is_said() {
        let set = [(FOLDERS, r#"{"kept": "/k"}"#)];
        let (names, all) = added(&set, &["runs/a/", "b=runs/a", "kept", "./x=y"]).unwrap();
        assert_eq!(names, ["a", "b", "kept", "x=y"]);
        assert_eq!(all, r#"{"a":"runs/a/","b":"runs/a","kept":"/k","x=y":"./x=y"}"#);
        // Nothing is set where nothing is said.
        assert_eq!(added(&[], &[]).unwrap(), (vec![], String::new()));
    }

    #[test]
    fn what_has_no_name_or_two_folders_is_refused() {
        for (set, given, says) in [
            ("{}", &["a/x", "b/x"][..], "`x` would be two adapters, a/x and b/x"),
            (r#"{"x": "/k"}"#, &["x=/other"], "`x` would be two adapters, /k and /other"),
            ("{}", &[".."], "--adapter ..: expected NAME=.."),
            ("[]", &["x"], "`adapters`: expected a JSON object of names and folders"),
        ] {
            let error = added(&[(FOLDERS, set)], given).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for text in ["", "=a", "a=", " a=b"] {
            assert!(text.parse::<AdapterArg>().is_err(), "{text}");
        }
    }
}
