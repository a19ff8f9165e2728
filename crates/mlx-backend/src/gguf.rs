//! GGUF files: a model in one file, with its configuration, tokenizer and chat template as metadata. No MLX
//! here.
//!
//! ```text
//! "GGUF"  version  tensors  pairs  | key type value | ..  | name shape type offset | ..  | tensors
//! ```
//!
//! All numbers are little-endian, and each tensor begins at a multiple of `general.alignment`. Everything
//! before the tensors is read and checked by [`Gguf::open`]: what a file says of its sizes is compared with
//! its length before memory is taken.
//!
//! Sources: `docs/gguf.md` and `src/gguf.cpp` of ggml; `convert_hf_to_gguf.py` and `gguf-py` of llama.cpp,
//! for what converters write.

mod blocks;
mod config;
mod kind;
mod layout;
mod metadata;
#[cfg(test)]
mod real;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

pub(crate) use self::layout::{Data, Part};
use self::{
    metadata::Metadata,
    source::Source,
    table::{Tensor, read_table},
};
use crate::{Error, Result};

/// The first bytes of every file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Longest part before the tensors; vocabularies of a quarter of a million tokens take 20 MB.
const MAX_HEADER_BYTES: u64 = 256 << 20;

/// A GGUF file whose header has been read.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    /// Where the tensors begin.
    data_start: u64,
}

/// Whether the file at `path` begins as GGUF files do; not if it cannot be read.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let is_file = path.metadata().is_ok_and(|metadata| metadata.is_file());
    is_file
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == MAGIC
}

impl Gguf {
    /// Reads and checks everything before the tensors of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] with the byte at which it is no GGUF file that
    /// this crate reads.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let metadata = path.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(io::Error::other("it is not a regular file")));
        }
        let file = File::open(path).map_err(io)?;
        Self::read(path, BufReader::new(file), metadata.len())
            .map_err(|reason| Error::Config { path: path.to_owned(), reason })
    }

    /// As [`open`](Self::open), from a reader of the file's `length` bytes.
    pub(crate) fn read(path: &Path, reader: impl Read, length: u64) -> Result<Self, String> {
        let mut source = Source::new(reader, length.min(MAX_HEADER_BYTES));
        let magic: [u8; 4] = source.bytes("the magic number")?;
        if magic != MAGIC {
            return Err(format!("not a GGUF file: it begins with {magic:?}"));
        }
        match source.u32("the version")? {
            2 | 3 => {}
            swapped @ (0x0200_0000 | 0x0300_0000) => {
                return Err(format!(
                    "expected a little-endian GGUF file, found version {}, big-endian",
                    swapped.swap_bytes()
                ));
            }
            other => return Err(format!("expected GGUF of version 2 or 3, found {other}")),
        }
        let tensors = source.u64("the number of tensors")?;
        let pairs = source.u64("the number of metadata pairs")?;
        let metadata = Metadata::read(&mut source, pairs)?;
        let (tensors, data_start) =
            read_table(&mut source, tensors, metadata.alignment()?, length)?;
        Ok(Self { path: path.to_owned(), metadata, tensors, data_start })
    }

    /// Returns the bytes before the tensors.
    pub(crate) fn header_bytes(&self) -> u64 {
        self.data_start
    }

    fn config_error(&self, reason: String) -> Error {
        Error::Config { path: self.path.clone(), reason }
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
