//! The one door to C: libjpeg through the shim in `shim.c`.
#![allow(unsafe_code, reason = "a foreign function can only be called from unsafe code")]

use std::ffi::{CStr, c_char, c_int, c_uint};

// Links the static library that the shim calls.
use mozjpeg_sys as _;

/// Bytes that libjpeg wants for a message (`JMSG_LENGTH_MAX`).
const MESSAGE_BYTES: usize = 200;

unsafe extern "C" {
    fn vision_preproc_jpeg(
        bytes: *const u8,
        len: usize,
        width: c_uint,
        height: c_uint,
        components: c_uint,
        pixels: *mut u8,
        message: *mut c_char,
    ) -> c_int;
}

/// What the header of a JPEG file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 grey, 3 RGB or YCbCr, 4 CMYK or YCCK.
    pub(super) components: u32,
}

/// Decodes into `pixels`, `[height, width, components]`.
///
/// # Panics
/// If the length of `pixels` is not that product.
pub(super) fn decode(bytes: &[u8], header: Header, pixels: &mut [u8]) -> Result<(), String> {
    let samples = u64::from(header.width) * u64::from(header.height) * u64::from(header.components);
    assert_eq!(pixels.len() as u64, samples, "buffer of a JPEG image");
    let mut message: [c_char; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
    // SAFETY: `bytes` is readable for its length, the message is writable for as long as libjpeg may write, and
    // `pixels` is writable for width * height * components bytes (asserted above), numbers which the shim compares
    // with the file before it writes; no pointer is kept after the call.
    let failed = unsafe {
        vision_preproc_jpeg(
            bytes.as_ptr(),
            bytes.len(),
            header.width,
            header.height,
            header.components,
            pixels.as_mut_ptr(),
            message.as_mut_ptr(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    message[MESSAGE_BYTES - 1] = 0;
    // SAFETY: the array ends in a zero byte, written on the line above.
    let text = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(text.to_string_lossy().into_owned())
}
