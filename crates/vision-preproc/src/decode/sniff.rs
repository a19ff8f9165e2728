//! What a file is, by its first bytes; names and extensions are never consulted.

use super::Format;
use crate::Error;

const CONVERT: &str = "convert it to JPEG, PNG, WebP, GIF or BMP first";

/// First bytes of things that people try to pass as images, and what they are called.
const KNOWN: &[(&[u8], &str)] = &[
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "BigTIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\x01\0", "ICO"),
    (b"8BPS", "Photoshop document"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"DDS ", "DDS texture"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
];

/// Recognises the format of `bytes`.
///
/// # Errors
/// [`Error::Unsupported`] that names what was found instead.
pub(super) fn format(bytes: &[u8]) -> Result<Format, Error> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Format::Gif),
        [b'B', b'M', ..] => Ok(Format::Bmp),
        _ => Err(unsupported(bytes)),
    }
}

fn unsupported(bytes: &[u8]) -> Error {
    let of = |found: &str, advice| Error::Unsupported { found: found.into(), advice };
    if bytes.is_empty() {
        return of("no bytes at all", "check that the file was read");
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        let brand = bytes.get(8..12).unwrap_or_default();
        return match brand {
            b"avif" | b"avis" => of("AVIF", CONVERT),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                of("HEIC or HEIF", CONVERT)
            }
            _ => of("MP4 or QuickTime media", "extract a frame and pass it as an image"),
        };
    }
    if let Some((_, name)) = KNOWN.iter().find(|(start, _)| bytes.starts_with(start)) {
        return of(name, CONVERT);
    }
    // PDF allows bytes before its signature, and text formats start with white space or a comment.
    let head = &bytes[..bytes.len().min(1024)];
    let has =
        |text: &[u8]| head.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
    if has(b"%PDF-") {
        return of("PDF", "render the page to PNG first");
    }
    if has(b"<svg") {
        return of("SVG", "render it to PNG first");
    }
    if has(b"<html") || has(b"<!doctype html") {
        return of("an HTML page", "check the address the image came from");
    }
    let start: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    of(&format!("unknown content that starts with {}", start.join(" ")), CONVERT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> String {
        format(bytes).unwrap_err().to_string()
    }

    #[test]
    fn foreign_formats_are_named() {
        assert!(found(b"\0\0\0\x18ftypheic").contains("HEIC"));
        assert!(found(b"\0\0\0\x1cftypavif").contains("AVIF"));
        assert!(found(b"\0\0\0\x1cftypisom").contains("MP4"));
        assert!(found(b"II*\0....").contains("TIFF"));
        assert!(found(b"  <?xml version='1.0'?><svg/>").contains("SVG"));
        assert!(found(b"%PDF-1.7").contains("PDF"));
        assert!(found(b"<!DOCTYPE html>").contains("HTML"));
        assert!(found(b"").contains("no bytes"));
        assert!(found(b"\x01\x02").contains("01 02"));
        assert!(found(b"RIFF....AVI ").contains("unknown"));
    }

    #[test]
    fn the_content_decides() {
        assert_eq!(format(b"BM....").unwrap(), Format::Bmp);
        assert_eq!(format(b"GIF89a").unwrap(), Format::Gif);
        assert_eq!(format(b"\xff\xd8\xff\xe0").unwrap(), Format::Jpeg);
        assert_eq!(format(b"RIFF\0\0\0\0WEBPVP8 ").unwrap(), Format::WebP);
    }
}
