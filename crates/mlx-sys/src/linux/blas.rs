//! Lets a program bring its own matrix product for f32 on the CPU.
//!
//! The wheels carry the reference BLAS, which is about a hundred times slower than what a
//! processor can do. MLX calls it through its linkage table, like any library that calls another:
//! the dynamic section names the symbols and says where the address of each is kept. This writes a
//! different address there, which is what the dynamic loader itself does for a library that stands
//! earlier in its search order.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{ptr, slice};

use super::loader::{self, Library, LoadError};

/// The C function `cblas_sgemm`: `c = alpha * a * b + beta * c`.
///
/// `layout` is 101 for rows and 102 for columns, the `trans` arguments are 111 for a matrix as it
/// is and 112 for a transposed one. MLX passes 101.
pub type Sgemm = unsafe extern "C" fn(
    layout: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
);

/// Has MLX call `sgemm` from now on where it would call the `cblas_sgemm` of its own BLAS.
///
/// Opens the library first, as [`load`](super::load) does. Call it before the first matrix product:
/// one that runs at the same time may make the dynamic loader put the old address back.
///
/// # Errors
/// If the library cannot be opened, or is linked in a way that keeps the address out of reach. The
/// wheels are not.
///
/// # Safety
/// `sgemm` must compute what `cblas_sgemm` does, reading and writing nothing else, on any thread.
pub unsafe fn replace_sgemm(sgemm: Sgemm) -> Result<(), LoadError> {
    let opened = loader::opened()?;
    let Some(slot) = jump_slot(opened.library, c"cblas_sgemm") else {
        let reason = "it has no address of cblas_sgemm that could be replaced".to_owned();
        return Err(LoadError { path: opened.path.clone(), reason });
    };
    // SAFETY: an aligned word that lives as long as the library, which is never closed, and that
    // the dynamic loader writes to as well.
    unsafe { (*slot).store(sgemm as *mut c_void, Ordering::Release) };
    Ok(())
}

/// Where `library` keeps the address of the function `name` that it calls in another library.
fn jump_slot(library: Library, name: &CStr) -> Option<*const AtomicPtr<c_void>> {
    let mut map: *const LinkMap = ptr::null();
    // SAFETY: the handle is open, and this request stores one pointer.
    let status = unsafe { dlinfo(library.0, RTLD_DI_LINKMAP, (&raw mut map).cast()) };
    if status != 0 || map.is_null() {
        return None;
    }
    // SAFETY: the loader's description of a library stays while the library is open.
    let map = unsafe { &*map };
    // glibc has added the base to some addresses already, to which ones depends on its version.
    let absolute = |address: usize| if address < map.base { address + map.base } else { address };

    let (mut symbols, mut strings, mut relocations, mut bytes) = (None, None, None, 0);
    let mut entry = map.dynamic;
    loop {
        // SAFETY: the dynamic section ends with a null entry, where this loop ends.
        let Dynamic { tag, value } = unsafe { *entry };
        match tag {
            DT_NULL => break,
            DT_PLTRELSZ => bytes = value,
            DT_STRTAB => strings = Some(absolute(value) as *const c_char),
            DT_SYMTAB => symbols = Some(absolute(value) as *const Symbol),
            DT_JMPREL => relocations = Some(absolute(value) as *const Relocation),
            // All addresses were found at the start and their memory is read-only by now.
            DT_BIND_NOW => return None,
            DT_FLAGS if value & DF_BIND_NOW != 0 => return None,
            DT_FLAGS_1 if value & DF_1_NOW != 0 => return None,
            _ => {}
        }
        // SAFETY: not past the end, since this was not the null entry.
        entry = unsafe { entry.add(1) };
    }
    let (symbols, strings) = (symbols?, strings?);
    // SAFETY: the section describes a table of this place and size.
    let relocations =
        unsafe { slice::from_raw_parts(relocations?, bytes / size_of::<Relocation>()) };
    let relocation = relocations.iter().find(|relocation| {
        // SAFETY: relocations refer to entries of the symbol table, and those to C strings.
        let found = unsafe {
            let symbol = *symbols.add((relocation.info >> 32) as usize);
            CStr::from_ptr(strings.add(symbol.name as usize))
        };
        relocation.info as u32 == JUMP_SLOT && found == name
    })?;
    Some((map.base + relocation.offset) as *const AtomicPtr<c_void>)
}

/// The public part of glibc's `struct link_map`.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const Dynamic,
}

/// `Elf64_Dyn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Dynamic {
    tag: i64,
    value: usize,
}

/// `Elf64_Sym`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// `Elf64_Rela`.
#[repr(C)]
struct Relocation {
    offset: usize,
    info: u64,
    addend: i64,
}

const RTLD_DI_LINKMAP: c_int = 2;

const DT_NULL: i64 = 0;
const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_JMPREL: i64 = 23;
const DT_BIND_NOW: i64 = 24;
const DT_FLAGS: i64 = 30;
const DT_FLAGS_1: i64 = 0x6fff_fffb;
const DF_BIND_NOW: usize = 8;
const DF_1_NOW: usize = 1;

/// The kind of relocation that a call of another library has.
const JUMP_SLOT: u32 = if cfg!(target_arch = "aarch64") { 1026 } else { 7 };

unsafe extern "C" {
    fn dlinfo(handle: *mut c_void, request: c_int, result: *mut c_void) -> c_int;
}
