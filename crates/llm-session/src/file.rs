//! Conversations in files.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::Path,
    time::Duration,
};

use llm_core::{Error, ErrorKind, GenerateParams, Message, Result, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::session::{Session, Turn};

/// What the file says it is.
const FORMAT: &str = "llm-session";

/// The version of the format that is written, and the only one that is read.
const VERSION: u64 = 1;

/// Largest file that is read, in bytes. Images are in it, so that many megabytes are usual.
const MAX_BYTES: u64 = 1 << 30;

/// How the name of a file ends while it is written.
const PARTIAL: &str = ".partial";

/// A file that somebody began to write so long ago was never finished.
const STALE: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(default)]
    params: GenerateParams,
    turns: Vec<Turn>,
}

impl Session {
    /// Writes what was said to `path`, with all images, as JSON. An older file is replaced at once
    /// or not at all. Tools are not in it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let written = Written {
            format: FORMAT.to_owned(),
            version: VERSION,
            system: self.system.clone(),
            params: self.params.clone(),
            turns: self.turns().to_vec(),
        };
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Io, format!("cannot write {}", path.display()))
                .with_source(source)
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut partial = OsString::from(".");
        partial.push(path.file_name().unwrap_or_default());
        remove_stale(folder, &partial);
        let mut file = tempfile::Builder::new()
            .prefix(&partial)
            .suffix(PARTIAL)
            .tempfile_in(folder)
            .map_err(|e| fail(e.into()))?;
        serde_json::to_writer(&mut file, &written).map_err(|e| fail(e.into()))?;
        file.write_all(b"\n").map_err(|e| fail(e.into()))?;
        // The name must not get to the disk before the content.
        file.as_file().sync_all().map_err(|e| fail(e.into()))?;
        file.persist(path).map_err(|e| fail(e.error.into()))?;
        Ok(())
    }

    /// Reads a conversation that [`save`](Self::save) wrote. Settings that are not in the file are
    /// those of [`Session::new`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if `path` cannot be read; [`ErrorKind::InvalidRequest`] if it is no
    /// conversation, or one of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display();
        let io = |e: std::io::Error| {
            Error::new(ErrorKind::Io, format!("cannot read {name}")).with_source(e)
        };
        let bad = |what: String| Error::new(ErrorKind::InvalidRequest, format!("{name}: {what}"));
        let length = fs::metadata(path).map_err(io)?.len();
        if length > MAX_BYTES {
            return Err(bad(format!("expected at most {MAX_BYTES} bytes, found {length}")));
        }
        let value: Value = serde_json::from_slice(&fs::read(path).map_err(io)?).map_err(|e| {
            bad("expected a saved conversation, found no JSON".into()).with_source(e)
        })?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(bad(format!(
                "expected a saved conversation, with \"format\": \"{FORMAT}\""
            )));
        }
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) if other > VERSION => {
                return Err(bad(format!(
                    "it has version {other}, of a newer program; this one reads version {VERSION}"
                )));
            }
            _ => return Err(bad(format!("expected \"version\": {VERSION}"))),
        }
        let written: Written = serde_json::from_value(value)
            .map_err(|e| bad("the conversation cannot be read".into()).with_source(e))?;
        let mut session = Self::new();
        session.system = written.system;
        session.params = written.params;
        for (i, turn) in written.turns.into_iter().enumerate() {
            check(&turn.messages).map_err(|what| bad(format!("turn {i}: {what}")))?;
            session.push(turn.messages, turn.tokens);
        }
        Ok(session)
    }
}

/// Removes what programs left behind that were killed while they wrote: whole conversations with their pictures.
fn remove_stale(folder: &Path, prefix: &OsStr) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours =
            name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(PARTIAL.as_bytes());
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        if ours && changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE)) {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A turn goes from a question to an answer; the provider checks the rest.
fn check(messages: &[Message]) -> Result<(), &'static str> {
    let is_answer = |m: &Message| m.role == Role::Assistant && m.tool_calls().next().is_none();
    match (messages.first(), messages.last()) {
        (Some(first), _) if first.role != Role::User => Err("it begins without a question"),
        (Some(_), Some(last)) if !is_answer(last) => Err("it ends without an answer"),
        (None, _) => Err("it is empty"),
        _ => Ok(()),
    }
}
