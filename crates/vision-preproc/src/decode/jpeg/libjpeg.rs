//! The one door to C: libjpeg through the shim in `shim.c`.
#![allow(unsafe_code, reason = "a foreign function can only be called from unsafe code")]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::ptr::NonNull;

// Links the static library that the shim calls.
use mozjpeg_sys as _;

/// Bytes that libjpeg wants for a message (`JMSG_LENGTH_MAX`).
const MESSAGE_BYTES: usize = 200;

/// `struct vision_preproc_jpeg`, known to C only.
#[repr(C)]
struct Opened {
    private: [u8; 0],
}

unsafe extern "C" {
    fn vision_preproc_jpeg_open(
        bytes: *const u8,
        len: usize,
        width: c_uint,
        height: c_uint,
        components: c_uint,
        message: *mut c_char,
    ) -> *mut Opened;
    fn vision_preproc_jpeg_read(
        jpeg: *mut Opened,
        rows: *mut u8,
        count: c_uint,
        message: *mut c_char,
    ) -> c_int;
    fn vision_preproc_jpeg_close(jpeg: *mut Opened);
}

/// What the header of a JPEG file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 1 grey, 3 RGB or YCbCr, 4 CMYK or YCCK.
    pub(super) components: u32,
}

/// An open file; a progressive one has been decoded to coefficients.
pub(super) struct Reader<'a> {
    jpeg: NonNull<Opened>,
    /// Bytes of a row.
    stride: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Reader<'a> {
    /// Opens `bytes`, whose header says what `header` does.
    pub(super) fn open(bytes: &'a [u8], header: Header) -> Result<Self, String> {
        let mut message = [0; MESSAGE_BYTES];
        // SAFETY: `bytes` is readable for its length, and stays so as long as the reader is used, by its lifetime; the
        // message is writable for as long as libjpeg may write.
        let jpeg = unsafe {
            vision_preproc_jpeg_open(
                bytes.as_ptr(),
                bytes.len(),
                header.width,
                header.height,
                header.components,
                message.as_mut_ptr(),
            )
        };
        let jpeg = NonNull::new(jpeg).ok_or_else(|| text(message))?;
        let stride = header.width as usize * header.components as usize;
        Ok(Self { jpeg, stride, bytes: PhantomData })
    }

    /// Reads as many further rows of `[width, components]` bytes as fit; returns how many, 0 after the last.
    pub(super) fn read(&mut self, rows: &mut [u8]) -> Result<usize, String> {
        let count = c_uint::try_from(rows.len() / self.stride).unwrap_or(c_uint::MAX);
        let mut message = [0; MESSAGE_BYTES];
        // SAFETY: the pointer came from `open` and is closed by `drop` only; `rows` is writable for `count` rows of
        // `stride` bytes, which is what the shim writes for each, since it compared the sizes while opening.
        let read = unsafe {
            vision_preproc_jpeg_read(
                self.jpeg.as_ptr(),
                rows.as_mut_ptr(),
                count,
                message.as_mut_ptr(),
            )
        };
        usize::try_from(read).map_err(|_| text(message))
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `open`, and nothing uses it after this.
        unsafe { vision_preproc_jpeg_close(self.jpeg.as_ptr()) }
    }
}

fn text(message: [c_char; MESSAGE_BYTES]) -> String {
    let bytes = message.map(|c| c as u8);
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    text.to_string_lossy().into_owned()
}
