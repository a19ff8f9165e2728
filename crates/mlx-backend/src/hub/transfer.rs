//! One file from the hub to its place in the cache: resumed, counted, hashed, renamed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::{
    Body,
    http::{Response, StatusCode, header},
};

use super::{
    Progress,
    cache::{RepoCache, io_error},
    client::{Client, Failure, download},
    listing::{Checksum, HubFile},
};
use crate::Result;

const BUFFER_BYTES: usize = 256 << 10;

/// Brings `file` from `url` into `cache`, unless it is there.
///
/// # Errors
/// As [`super::download`].
pub(super) fn fetch(
    client: &Client,
    url: &str,
    file: &HubFile,
    cache: &RepoCache,
    progress: Progress<'_>,
) -> Result<()> {
    let blob = cache.blob(&file.checksum);
    let has_size = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.len() == file.size);
    let _lock = if has_size(&blob) { None } else { Some(cache.lock(&file.checksum)?) };
    // Asked again under the lock: another process may have fetched it meanwhile.
    if has_size(&blob) {
        progress(&file.name, file.size, file.size);
        return Ok(());
    }
    // `set_extension` would take a part of the name away if it held a dot.
    let partial = PathBuf::from(format!("{}.incomplete", blob.display()));
    let mut distrusted = false;
    loop {
        let mut sink = Sink::resume(&partial, file)?;
        let resumed = sink.done > 0;
        progress(&file.name, sink.done, file.size);
        client
            .persist(url, |advanced| receive(client, url, &mut sink, file, progress, advanced))?;
        if sink.finish(&partial)? == file.checksum.hex() {
            return fs::rename(&partial, &blob).map_err(io_error("create", &blob));
        }
        // Never to be resumed: the next try would end the same way.
        fs::remove_file(&partial).map_err(io_error("remove", &partial))?;
        // The wrong bytes may be from an earlier run, so one more try from the start is fair.
        if distrusted || !resumed {
            return Err(download(
                url,
                format!("its checksum is not {}, as the hub lists it", file.checksum.hex()),
            ));
        }
        distrusted = true;
    }
}

/// Receives what `sink` lacks, in one request.
fn receive(
    client: &Client,
    url: &str,
    sink: &mut Sink,
    file: &HubFile,
    progress: Progress<'_>,
    advanced: &mut bool,
) -> Result<(), Failure> {
    if sink.done == file.size {
        return Ok(());
    }
    let response = client.get(url, sink.done)?;
    if response.status() == StatusCode::OK {
        // The whole file, whether or not that was asked for.
        if sink.done > 0 {
            sink.restart(file)?;
        }
    } else if !continues_at(&response, sink.done) {
        sink.restart(file)?;
        return Err(Failure::passing("the server cannot continue where the file was cut"));
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match body.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Failure::passing(format!("the connection broke: {e}"))),
        };
        if read == 0 {
            break;
        }
        if sink.done + read as u64 > file.size {
            let reason = format!("expected {} bytes, found more", file.size);
            sink.restart(file)?;
            return Err(download(url, reason).into());
        }
        sink.write(&buffer[..read])?;
        // Only new ground counts: a server that ignores ranges and cuts each answer at the same
        // byte would be asked for ever.
        if sink.done > sink.furthest {
            sink.furthest = sink.done;
            *advanced = true;
        }
        progress(&file.name, sink.done, file.size);
    }
    if sink.done < file.size {
        let reason = format!("the connection ended at byte {} of {}", sink.done, file.size);
        return Err(Failure::passing(reason));
    }
    Ok(())
}

/// Whether `response` holds the bytes from `at` on: `Content-Range: bytes 5-9/10`.
fn continues_at(response: &Response<Body>, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let start = range.and_then(|v| v.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    response.status() == StatusCode::PARTIAL_CONTENT && at > 0 && start == Some(at)
}

/// The file so far, on disk and hashed.
struct Sink {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    done: u64,
    /// The most that `done` has been.
    furthest: u64,
}

impl Sink {
    /// Opens the partial file at `path` at its end; one that is too long is emptied.
    fn resume(path: &Path, file: &HubFile) -> Result<Self> {
        let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let mut sink = Self {
            file: open.map_err(io_error("write", path))?,
            path: path.to_owned(),
            hasher: Hasher::new(file),
            done: 0,
            furthest: 0,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = sink.file.read(&mut buffer).map_err(io_error("read", path))?;
            if read == 0 {
                sink.furthest = sink.done;
                return Ok(sink);
            }
            sink.hasher.update(&buffer[..read]);
            sink.done += read as u64;
            if sink.done > file.size {
                sink.restart(file)?;
                return Ok(sink);
            }
        }
    }

    fn restart(&mut self, file: &HubFile) -> Result<()> {
        use io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(io_error("write", &self.path))?;
        self.hasher = Hasher::new(file);
        self.done = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.hasher.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// Writes everything to the disk, and returns the checksum.
    fn finish(self, path: &Path) -> Result<String> {
        self.file.sync_all().map_err(io_error("write", path))?;
        Ok(self.hasher.hex())
    }
}

enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(file: &HubFile) -> Self {
        match file.checksum {
            Checksum::Sha256(_) => Self::Sha256(Sha256::new()),
            Checksum::Git(_) => {
                Self::Git(Sha1::new_with_prefix(format!("blob {}\0", file.size).as_bytes()))
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    fn hex(self) -> String {
        let digest = match self {
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Git(hasher) => hasher.finalize().to_vec(),
        };
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
