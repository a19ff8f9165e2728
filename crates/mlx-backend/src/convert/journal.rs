//! What of a conversion is on disk, so that a later try goes on where one was ended.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{Plan, write_error};
use crate::{Error, Result};

/// A file beside the weight files: a line that tells the plan, then one for each step that is done,
/// with the hash of what it wrote. Lines are hashes in hexadecimal.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// The lines after the first.
    pub(super) done: Vec<String>,
}

impl Journal {
    pub(super) const NAME: &str = ".progress";

    /// Opens the journal in `folder`; of another plan, it starts anew.
    ///
    /// # Errors
    /// If another process has it open, or it cannot be read or written.
    pub(super) fn open(folder: &Path, plan: &str) -> Result<Self> {
        let path = folder.join(Self::NAME);
        let fail = |e| write_error("open", &path, e);
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("{}: another process writes this folder", folder.display());
                return Err(Error::Prompt(text));
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fail)?;
        let text = String::from_utf8_lossy(&text);
        // What is after the last line break was cut off.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let same = lines.next() == Some(plan);
        let done = if same { lines.map(str::to_owned).collect() } else { Vec::new() };
        let mut journal = Self { file, path, done };
        if !same {
            journal.cut(0)?;
            journal.write(plan)?;
        }
        Ok(journal)
    }

    /// Forgets all steps from `count` on.
    pub(super) fn keep(&mut self, count: usize, plan: &str) -> Result<()> {
        self.done.truncate(count);
        let lines = std::iter::once(plan).chain(self.done.iter().map(String::as_str));
        self.cut(lines.map(|line| line.len() as u64 + 1).sum())
    }

    /// Notes that the next step is done.
    pub(super) fn add(&mut self, hash: &str) -> Result<()> {
        self.write(hash)
    }

    fn write(&mut self, line: &str) -> Result<()> {
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|e| write_error("write", &self.path, e))
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map(drop).map_err(|e| write_error("write", &self.path, e))
    }
}

/// Returns how many of the steps that the journal has are in `files` as it says.
pub(super) fn verified(
    journal: &Journal,
    plan: &Plan,
    files: &mut [File],
    progress: &mut dyn FnMut(usize),
) -> usize {
    let mut bytes = Vec::new();
    for (i, (step, expected)) in plan.steps.iter().zip(&journal.done).enumerate() {
        bytes.resize(step.bytes as usize, 0);
        let file = &mut files[step.file];
        let read =
            file.seek(SeekFrom::Start(step.offset)).and_then(|_| file.read_exact(&mut bytes));
        if read.is_err() || blake3::hash(&bytes).to_hex().as_str() != expected {
            return i;
        }
        progress(i + 1);
    }
    journal.done.len().min(plan.steps.len())
}
