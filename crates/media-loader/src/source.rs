//! One thing that a person named, and what it is.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use llm_core::{Error, ErrorKind, Image, Part, Request, Result};
use percent_encoding::percent_decode_str;

use crate::{
    Loader,
    kind::{HEAD, Kind, text_part},
};

impl Loader {
    /// Returns what `source` names: the path of a file, a glob (`*`, `?`, `[...]`), a `file:`, `http:`,
    /// `https:` or `data:` address, or an image file in base64. A file whose name is a glob is that file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::InvalidRequest`] if it names nothing, or what is neither image nor
    /// text; [`ErrorKind::Image`] for an address that cannot be fetched, or is not allowed.
    pub fn load(&self, source: &str) -> Result<Vec<Part>> {
        let source = source.trim();
        if source.starts_with("data:") {
            return Ok(vec![Image::data_url(source)?.into()]);
        }
        if source.starts_with("http://") || source.starts_with("https://") {
            return Ok(vec![self.fetch(source)?]);
        }
        if let Some(rest) = source.strip_prefix("file:") {
            return Ok(vec![self.file(&path_of_url(rest)?)?]);
        }
        if let Some(image) = base64_image(source) {
            return Ok(vec![image.into()]);
        }
        let path = Path::new(source);
        if !path.exists() && source.contains(['*', '?', '[']) {
            return self.glob(source);
        }
        Ok(vec![self.file(path)?])
    }

    /// Replaces each [`Image::Url`] of a request by what it leads to, for providers that fetch nothing.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if an address is none of an image.
    pub fn resolve(&self, request: &mut Request) -> Result<()> {
        for part in request.messages.iter_mut().flat_map(|message| &mut message.parts) {
            let Part::Image(Image::Url(url)) = part else { continue };
            match self.fetch(url)? {
                Part::Image(image) => *part = Part::Image(image),
                _ => {
                    let message = format!("{}: expected an image, found a text", shown(url));
                    return Err(Error::new(ErrorKind::Image, message));
                }
            }
        }
        Ok(())
    }

    fn glob(&self, pattern: &str) -> Result<Vec<Part>> {
        self.allow_files()?;
        let paths = glob::glob(pattern)
            .map_err(|e| invalid(format!("{pattern}: not a pattern of files: {e}")))?;
        let mut parts = Vec::new();
        for path in paths {
            let path = path.map_err(|e| io(e.path(), e.error()))?;
            if path.is_dir() {
                continue;
            }
            if parts.len() == self.options.max_files {
                let most = self.options.max_files;
                return Err(invalid(format!("{pattern}: more than {most} files")));
            }
            parts.push(self.file(&path)?);
        }
        match parts.is_empty() {
            true => Err(invalid(format!("{pattern}: no such file"))),
            false => Ok(parts),
        }
    }

    fn file(&self, path: &Path) -> Result<Part> {
        self.allow_files()?;
        let fail = |error| io(path, &error);
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(HEAD as u64).read_to_end(&mut bytes).map_err(fail)?;
        let name = path.display().to_string();
        let kind = Kind::of(&bytes);
        let most = self.most(kind);
        if kind == Kind::Image {
            check_length(&name, length, most)?;
            return Ok(Image::Path(path.to_owned()).into());
        }
        // The length of a pipe or a growing file is not known before.
        file.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
        check_length(&name, bytes.len() as u64, most)?;
        text_part(&name, bytes)
    }

    pub(crate) fn most(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Image => self.options.max_image_bytes,
            Kind::Text => self.options.max_text_bytes,
        }
    }

    fn allow_files(&self) -> Result<()> {
        match self.options.files {
            true => Ok(()),
            false => Err(invalid("files of this machine are not allowed here".to_owned())),
        }
    }

    #[cfg(not(feature = "http"))]
    fn fetch(&self, url: &str) -> Result<Part> {
        let message = format!("{}: this build fetches no addresses", shown(url));
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// Returns an address without what may be secret in it.
pub(crate) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://").and_then(|(scheme, rest)| {
        let host_end = rest.find('/').unwrap_or(rest.len());
        rest[..host_end].rfind('@').map(|at| format!("{scheme}://{}", &rest[at + 1..]))
    }) {
        Some(without) => without,
        None => plain.to_owned(),
    }
}

pub(crate) fn check_length(name: &str, length: u64, most: u64) -> Result<()> {
    match length > most {
        true => Err(invalid(format!("{name}: expected at most {most} bytes, found more"))),
        false => Ok(()),
    }
}

/// Reads what follows `file:`: `//` and a host, which must be this one, or just a path.
fn path_of_url(rest: &str) -> Result<PathBuf> {
    let expected = || invalid(format!("expected file:///path, found file:{rest}"));
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    if !path.starts_with('/') {
        return Err(expected());
    }
    let path = percent_decode_str(path).decode_utf8().map_err(|_| expected())?;
    Ok(PathBuf::from(path.into_owned()))
}

/// Returns an image if `text` is one in base64: a name of a file never is, since the first bytes of an
/// image file make it at least this long and free of dots.
fn base64_image(text: &str) -> Option<Image> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+/-_= \r\n\t".contains(c);
    let long = text.len() >= 32 && text.chars().all(plain);
    let image = long.then(|| Image::base64(text).ok()).flatten()?;
    match &image {
        Image::Encoded(bytes) if Kind::of(bytes) == Kind::Image => Some(image),
        _ => None,
    }
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot read {}: {error}", path.display()))
}

pub(crate) fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}
