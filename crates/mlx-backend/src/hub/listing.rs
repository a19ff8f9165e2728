//! What the hub says about a revision: its commit, and its files with sizes and checksums.

use std::{collections::BTreeSet, io::Read};

use serde::Deserialize;

use super::client::{Client, Failure, download};
use crate::{Error, Result, checkpoint::stays_inside};

/// The list of a repository of thousands of files takes 1 MB.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// The files of one revision.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit that the revision names.
    pub(super) commit: String,
    /// The files that a checkpoint may need.
    pub(super) files: Vec<HubFile>,
    /// The endings of all files.
    endings: BTreeSet<String>,
}

/// A file on the hub.
#[derive(Debug)]
pub(super) struct HubFile {
    /// Its path in the repository, which stays inside of the folder it is joined to.
    pub(super) name: String,
    /// Its bytes.
    pub(super) size: u64,
    /// What its content hashes to.
    pub(super) checksum: Checksum,
}

/// What a file hashes to, in lower-case hexadecimal; the name of its blob in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of the content: files in large-file storage.
    Sha256(String),
    /// SHA-1 of the content behind a header with its length, as git has it: all other files.
    Git(String),
}

impl Checksum {
    /// Returns the hash.
    pub(super) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }
}

impl HubFile {
    /// Whether this says what the model is: configuration, tokenizer, chat template.
    /// Vocabularies in other forms than `tokenizer.json` are not read, so they are left out.
    pub(super) fn is_description(&self) -> bool {
        !self.name.contains('/') && (self.name.ends_with(".json") || self.name.ends_with(".jinja"))
    }

    /// Whether this holds weights of a checkpoint without an index.
    pub(super) fn is_weights(&self) -> bool {
        !self.name.contains('/')
            && self.name.ends_with(".safetensors")
            && !self.name.starts_with("consolidated")
    }
}

impl Listing {
    /// Asks the hub.
    ///
    /// # Errors
    /// As [`super::download`]; [`Error::Download`] also for a name that would leave its
    /// folder and for a file without a checksum.
    pub(super) fn fetch(client: &Client, repo: &str, revision: &str) -> Result<Self> {
        let url = client.listing_url(repo, revision);
        let text = client.persist(&url, |_| {
            let mut text = Vec::new();
            let body = client.get(&url, 0)?.into_body().into_reader();
            body.take(MAX_LISTING_BYTES + 1)
                .read_to_end(&mut text)
                .map_err(|e| Failure::passing(e.to_string()))?;
            Ok(text)
        });
        let text = text.map_err(|error| match error {
            Error::NotFound { .. } => Error::NotFound {
                name: repo.to_owned(),
                reason: format!("the hub has no such model, or it has no revision `{revision}`"),
            },
            other => other,
        })?;
        if text.len() as u64 > MAX_LISTING_BYTES {
            return Err(download(&url, format!("the list is above {MAX_LISTING_BYTES} bytes")));
        }
        Self::parse(&text).map_err(|reason| download(&url, reason))
    }

    /// Returns what kinds of files there are, for a message.
    pub(super) fn summary(&self) -> String {
        match self.endings.is_empty() {
            true => "no files".to_owned(),
            false => self.endings.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let raw: RawListing =
            serde_json::from_slice(text).map_err(|e| format!("not a list of files: {e}"))?;
        if !is_hex(&raw.sha, 40) {
            return Err("the commit is not a hash".to_owned());
        }
        let mut files = vec![];
        let mut endings = BTreeSet::new();
        for file in raw.siblings {
            let name = file.rfilename;
            let ending = name.rsplit('/').next().and_then(|last| last.rsplit_once('.'));
            let ending = ending.map_or("other files".to_owned(), |(_, e)| format!("*.{e}"));
            let needed = [".json", ".jinja", ".safetensors"].iter().any(|e| name.ends_with(e));
            endings.insert(ending);
            if !needed {
                continue;
            }
            if !stays_inside(&name) {
                return Err(format!("refused: the file name {name:?} leaves the folder"));
            }
            let (checksum, size) = match (file.lfs, file.blob_id) {
                (Some(lfs), _) if is_hex(&lfs.sha256, 64) => {
                    (Checksum::Sha256(lfs.sha256), Some(lfs.size))
                }
                (None, Some(id)) if is_hex(&id, 40) => (Checksum::Git(id), file.size),
                _ => return Err(format!("the list has no checksum for {name:?}")),
            };
            let size = size.ok_or_else(|| format!("the list has no size for {name:?}"))?;
            files.push(HubFile { name, size, checksum });
        }
        Ok(Self { commit: raw.sha, files, endings })
    }
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFile {
    rfilename: String,
    blob_id: Option<String>,
    size: Option<u64>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    sha256: String,
    size: u64,
}

/// Hashes become file names, so nothing but a hash may pass.
fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads a list: no name leaves its folder, and every hash is one.
#[cfg(any(test, fuzzing))]
pub fn fuzz_listing(text: &[u8]) {
    let Ok(listing) = Listing::parse(text) else { return };
    assert!(is_hex(&listing.commit, 40));
    for file in &listing.files {
        let hex = file.checksum.hex();
        assert!(is_hex(hex, 40) || is_hex(hex, 64));
        let path = std::path::Path::new("/a").join(&file.name);
        assert!(path.starts_with("/a") && !file.name.contains(['\\', ':', '\0']), "{path:?}");
        assert!(path.components().all(|c| c != std::path::Component::ParentDir), "{path:?}");
        assert!(!(file.is_description() && file.is_weights()));
    }
    assert!(!listing.summary().is_empty());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(siblings: serde_json::Value) -> Result<Listing, String> {
        Listing::parse(json!({"sha": "a".repeat(40), "siblings": siblings}).to_string().as_bytes())
    }

    #[test]
    fn only_what_a_checkpoint_needs_is_kept() {
        let sha = "0".repeat(64);
        let file = |name: &str| json!({"rfilename": name, "blobId": "b".repeat(40), "size": 3});
        let listing = parse(json!([
            file("config.json"), file("chat_template.jinja"), file("README.md"),
            file("modeling.py"), file("pytorch_model.bin"), file("onnx/config.json"),
            {"rfilename": "model.safetensors", "blobId": "c".repeat(40), "size": 130,
             "lfs": {"sha256": sha, "size": 9, "pointerSize": 130}},
            {"rfilename": "consolidated.safetensors", "lfs": {"sha256": sha, "size": 9}},
        ]))
        .unwrap();
        let names = |keep: fn(&HubFile) -> bool| -> Vec<&str> {
            listing.files.iter().filter(|f| keep(f)).map(|f| f.name.as_str()).collect()
        };
        assert_eq!(names(HubFile::is_description), ["config.json", "chat_template.jinja"]);
        assert_eq!(names(HubFile::is_weights), ["model.safetensors"]);
        let model = listing.files.iter().find(|f| f.is_weights()).unwrap();
        assert_eq!((model.size, &model.checksum), (9, &Checksum::Sha256(sha)));
        assert_eq!(listing.summary(), "*.bin, *.jinja, *.json, *.md, *.py, *.safetensors");
    }

    #[test]
    fn names_and_hashes_that_could_leave_the_cache_are_refused() {
        for name in ["../x.json", "/x.json", "a/../../x.json", "..\\x.json", "C:x.json", "a\0.json"]
        {
            let listing = parse(json!([{"rfilename": name, "blobId": "b".repeat(40), "size": 3}]));
            assert!(listing.unwrap_err().contains("leaves the folder"), "{name:?}");
        }
        for id in ["../../x", "", "B123"] {
            let listing = parse(json!([{"rfilename": "x.json", "blobId": id, "size": 3}]));
            assert!(listing.unwrap_err().contains("no checksum"), "{id}");
        }
        assert!(Listing::parse(br#"{"sha": "../x", "siblings": []}"#).is_err());
        assert!(Listing::parse(b"<html>").unwrap_err().contains("not a list"));
    }
}
