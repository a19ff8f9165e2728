//! A model that was found, and how it is shown.

use std::{
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
};

use abstractllm::{
    Capability, Result, embedded,
    mlx::{self, CachedModel, ModelDescription, Snapshot},
};
use serde::Serialize;

use crate::format;

/// A model on this machine.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    /// What `--model` takes.
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) place: Place,
    /// The folder that is loaded, if there is one.
    path: Option<PathBuf>,
    /// Bytes on the disk, of all revisions.
    pub(super) bytes: u64,
    /// What it says of itself, if it is whole.
    #[serde(flatten)]
    description: Option<ModelDescription>,
    /// Why it cannot be loaded.
    problem: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revisions: Vec<Snapshot>,
}

/// Where a model is.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", content = "location", rename_all = "snake_case")]
pub(super) enum Place {
    Embedded,
    Cache(PathBuf),
    Folder(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded in this program"),
            Self::Cache(path) | Self::Folder(path) => path.display().fmt(f),
        }
    }
}

impl Found {
    pub(super) fn embedded() -> Result<Self> {
        let path = embedded::tiny_vl()?;
        Ok(Self::described(embedded::TINY_VL.to_owned(), Place::Embedded, path))
    }

    /// The model in `path`, which is listed below `place`.
    pub(super) fn folder(path: &Path, place: Option<&Path>) -> Self {
        let place = place.filter(|place| !place.as_os_str().is_empty());
        let place = place.unwrap_or(Path::new(".")).to_owned();
        Self::described(path.display().to_string(), Place::Folder(place), path.to_owned())
    }

    pub(super) fn cached(model: CachedModel) -> Self {
        let place = model.path.parent().unwrap_or(Path::new("")).to_owned();
        // That of `main` if it is whole, else another that is.
        let whole = model.snapshots.iter().find(|snapshot| snapshot.missing.is_empty());
        let found = match (whole, model.snapshots.first()) {
            (Some(whole), _) => {
                Self::described(model.name, Place::Cache(place), whole.path.clone())
            }
            (None, partial) => Self {
                name: model.name,
                place: Place::Cache(place),
                path: None,
                bytes: 0,
                description: None,
                problem: Some(match partial {
                    Some(partial) => format!("not whole: lacks {}", partial.missing.join(", ")),
                    None => "not whole: its download was broken off".to_owned(),
                }),
                revisions: Vec::new(),
            },
        };
        Self { bytes: model.bytes, revisions: model.snapshots, ..found }
    }

    fn described(name: String, place: Place, path: PathBuf) -> Self {
        let (description, problem) = match mlx::describe(&path) {
            Ok(mut description) => {
                let problem = description.unsupported.take();
                (Some(description), problem)
            }
            Err(error) => (None, Some(abstractllm::Error::from(error).chain())),
        };
        let bytes = description.as_ref().map_or(0, |description| description.weight_bytes);
        Self { name, place, path: Some(path), bytes, description, problem, revisions: Vec::new() }
    }

    /// Returns what a list says of it besides name and size.
    pub(super) fn line(&self) -> String {
        match (&self.description, &self.problem) {
            (Some(description), None) => {
                let family = &description.family;
                format!("{family:<12}  {:<26}  {}", weights(description), reads(description))
            }
            (Some(description), Some(_)) => format!("{}, which cannot be run", description.family),
            (None, problem) => problem.clone().unwrap_or_default(),
        }
    }

    /// Prints everything.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        let mut row = |name: &str, value: &str| writeln!(out, "  {name:<13} {value}");
        if let Some(path) = &self.path {
            row("folder", &path.display().to_string())?;
        }
        row("size", &format::bytes(self.bytes))?;
        if let Some(description) = &self.description {
            row("family", &description.family)?;
            row("weights", &weights(description))?;
            if let Some(tokens) = description.context_tokens {
                row("context", &format!("{tokens} tokens"))?;
            }
            let capabilities: Vec<String> =
                description.capabilities.iter().map(|capability| capability.to_string()).collect();
            if !capabilities.is_empty() {
                row("capabilities", &capabilities.join(", "))?;
            }
        }
        for Snapshot { commit, revisions, missing, .. } in &self.revisions {
            let names = match revisions.is_empty() {
                true => String::new(),
                false => format!(" ({})", revisions.join(", ")),
            };
            let state = if missing.is_empty() { "" } else { ", not whole" };
            row("revision", &format!("{commit}{names}{state}"))?;
        }
        if let Some(problem) = &self.problem {
            row("problem", problem)?;
        }
        out.flush()
    }
}

fn weights(description: &ModelDescription) -> String {
    let mixed = if description.mixed { ", mixed" } else { "" };
    match (&description.quantize, &description.float_type) {
        (Some(how), _) => format!("{how}{mixed}"),
        (None, Some(float)) => float.clone(),
        (None, None) => "full".to_owned(),
    }
}

fn reads(description: &ModelDescription) -> &'static str {
    match description.capabilities.has(Capability::Vision) {
        true => "text, images",
        false => "text",
    }
}
