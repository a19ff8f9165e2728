//! Downloads a checkpoint from the Hugging Face hub into the cache that its own tools use.
//!
//! One request lists the files of the revision with their sizes and checksums. Each needed file is
//! fetched to `blobs/<checksum>.incomplete`, resumed from there after an interruption, checked,
//! and renamed to `blobs/<checksum>`. Only when all are there does the snapshot get its links,
//! `config.json` last, and the revision its entry in `refs`: what looks complete is complete.
//!
//! Files are fetched one after another: they come from one server, which one connection fills a
//! usual line from, and a second would only halve the first.

mod cache;
mod client;
mod listing;
#[cfg(test)]
mod tests;
mod transfer;

#[cfg(any(test, fuzzing))]
pub use self::listing::fuzz_listing;

use std::path::{Path, PathBuf};

use self::{
    cache::RepoCache,
    client::Client,
    listing::{HubFile, Listing},
};
use crate::{
    Error, Result,
    checkpoint::{CONFIG, INDEX, shards_of_index},
};

/// Hears of a file, its bytes done and its bytes in all.
type Progress<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

/// Downloads `repo` (`organisation/model`) at `revision` into the folder `cache`, and returns its
/// snapshot. Blocks until all is there; what an earlier call has fetched is not fetched again.
///
/// The server is `HF_ENDPOINT`, by default huggingface.co; the access token is `HF_TOKEN` or the
/// one that `hf auth login` has stored.
///
/// # Errors
/// [`Error::NotFound`] if the hub has no such model or it has no safetensors, [`Error::Denied`] if
/// it may not be read, [`Error::Download`] if a file does not arrive whole, [`Error::Io`] if the
/// cache cannot be written.
pub(crate) fn download(
    repo: &str,
    revision: &str,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<PathBuf> {
    download_with(&Client::from_env()?, repo, revision, cache, progress)
}

fn download_with(
    client: &Client,
    repo: &str,
    revision: &str,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<PathBuf> {
    let listing = Listing::fetch(client, repo, revision)?;
    tracing::info!(repo, revision, commit = %listing.commit, "downloading from the hub");
    let cache = RepoCache::new(cache, repo);
    let fetch = |file: &HubFile| -> Result<()> {
        let url = client.file_url(repo, &listing.commit, &file.name);
        transfer::fetch(client, &url, file, &cache, progress)
    };

    let mut files: Vec<&HubFile> = listing.files.iter().filter(|f| f.is_description()).collect();
    for file in &files {
        fetch(file)?;
    }
    let weights = match files.iter().find(|file| file.name == INDEX) {
        Some(index) => named_by_index(repo, &listing, &cache.blob(&index.checksum))?,
        None => listing.files.iter().filter(|file| file.is_weights()).collect(),
    };
    if weights.is_empty() || !files.iter().any(|file| file.name == CONFIG) {
        return Err(Error::NotFound {
            name: repo.to_owned(),
            reason: format!(
                "the hub has it, but not as config.json and *.safetensors; it holds {}",
                listing.summary()
            ),
        });
    }
    for file in &weights {
        fetch(file)?;
    }

    files.extend(weights);
    files.sort_by_key(|file| file.name == CONFIG);
    for file in files {
        cache.link(&listing.commit, &file.name, &file.checksum)?;
    }
    cache.write_ref(revision, &listing.commit)?;
    Ok(cache.snapshot(&listing.commit))
}

/// Returns the files that the index at `path` names. A repository may hold others: the same
/// weights once more in one file, or with other numbers of bits.
fn named_by_index<'a>(repo: &str, listing: &'a Listing, path: &Path) -> Result<Vec<&'a HubFile>> {
    let shards = shards_of_index(path)?;
    shards
        .iter()
        .map(|name| {
            listing.files.iter().find(|file| file.name == *name).ok_or_else(|| Error::NotFound {
                name: repo.to_owned(),
                reason: format!("its index names `{name}`, which the hub does not have"),
            })
        })
        .collect()
}
