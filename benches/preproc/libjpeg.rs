//! The libjpeg-turbo inside the Pillow wheel.
//!
//! That build has the assembler kernels, which a build from source has only where nasm is installed. The structures
//! are those of libjpeg 6.2, which mozjpeg-sys declares; `jpeg_CreateDecompress` is told their size and refuses others.

use std::ffi::{c_int, c_ulong};
use std::path::Path;

use libloading::Library;
use mozjpeg_sys::{JPEG_LIB_VERSION, jpeg_common_struct, jpeg_decompress_struct, jpeg_error_mgr};

use crate::Result;

type Cinfo = *mut jpeg_decompress_struct;

/// The functions that decoding needs.
pub(crate) struct Libjpeg {
    std_error: unsafe extern "C-unwind" fn(*mut jpeg_error_mgr) -> *mut jpeg_error_mgr,
    create: unsafe extern "C-unwind" fn(Cinfo, c_int, usize),
    mem_src: unsafe extern "C-unwind" fn(Cinfo, *const u8, c_ulong),
    read_header: unsafe extern "C-unwind" fn(Cinfo, c_int) -> c_int,
    start: unsafe extern "C-unwind" fn(Cinfo) -> c_int,
    read_scanlines: unsafe extern "C-unwind" fn(Cinfo, *mut *mut u8, u32) -> u32,
    finish: unsafe extern "C-unwind" fn(Cinfo) -> c_int,
    destroy: unsafe extern "C-unwind" fn(Cinfo),
    // The pointers above lead into it.
    _library: Library,
}

impl Libjpeg {
    /// Loads the library at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // SAFETY: libjpeg has no code that runs as it is loaded.
        let library = unsafe { Library::new(path)? };
        // SAFETY: the types are those of jpeglib.h, and the library is kept for as long as the pointers.
        unsafe {
            Ok(Self {
                std_error: *library.get(b"jpeg_std_error")?,
                create: *library.get(b"jpeg_CreateDecompress")?,
                mem_src: *library.get(b"jpeg_mem_src")?,
                read_header: *library.get(b"jpeg_read_header")?,
                start: *library.get(b"jpeg_start_decompress")?,
                read_scanlines: *library.get(b"jpeg_read_scanlines")?,
                finish: *library.get(b"jpeg_finish_decompress")?,
                destroy: *library.get(b"jpeg_destroy_decompress")?,
                _library: library,
            })
        }
    }

    /// Decodes a colour JPEG into `rgb`, which grows as needed, at the largest of the reductions by 1, 2, 4 and 8 that
    /// leaves `least` columns; returns width and height.
    pub(crate) fn decode(&self, bytes: &[u8], least: u32, rgb: &mut Vec<u8>) -> (u32, u32) {
        // SAFETY: zero is a value of every field: null pointers, absent functions, integers.
        let mut error: jpeg_error_mgr = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut cinfo: jpeg_decompress_struct = unsafe { std::mem::zeroed() };
        // SAFETY: the calls come in the order that libjpeg.txt gives; `error`, `bytes` and the rows outlive them, and
        // an error ends the process instead of returning.
        unsafe {
            cinfo.common.err = (self.std_error)(&raw mut error);
            (*cinfo.common.err).error_exit = Some(give_up);
            (self.create)(&raw mut cinfo, JPEG_LIB_VERSION, size_of::<jpeg_decompress_struct>());
            (self.mem_src)(&raw mut cinfo, bytes.as_ptr(), bytes.len() as c_ulong);
            (self.read_header)(&raw mut cinfo, 1);
            let enough = |reduction: &u32| cinfo.image_width / reduction >= least;
            cinfo.scale_num = 1;
            cinfo.scale_denom = [8, 4, 2].into_iter().find(enough).unwrap_or(1);
            (self.start)(&raw mut cinfo);
        }
        assert_eq!(cinfo.output_components, 3, "the benchmark's images are in colour");
        let (width, height) = (cinfo.output_width, cinfo.output_height);
        let stride = width as usize * 3;
        rgb.resize(stride * height as usize, 0);
        for row in rgb.chunks_exact_mut(stride) {
            let mut pointer = row.as_mut_ptr();
            // SAFETY: the pointer has room for the one row that is asked for.
            let read = unsafe { (self.read_scanlines)(&raw mut cinfo, &raw mut pointer, 1) };
            assert_eq!(read, 1, "rows of libjpeg");
        }
        // SAFETY: the structure was created above and is used no more.
        unsafe {
            (self.finish)(&raw mut cinfo);
            (self.destroy)(&raw mut cinfo);
        }
        (width, height)
    }
}

/// Ends the process: the images are our own, so an error is one of this program.
extern "C-unwind" fn give_up(cinfo: &mut jpeg_common_struct) {
    // SAFETY: libjpeg sets `err` before it calls this.
    let code = unsafe { (*cinfo.err).msg_code };
    eprintln!("preproc: libjpeg stopped with message {code}");
    std::process::exit(1);
}
