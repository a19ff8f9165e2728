//! Advice to the kernel about memory.

/// Buffers of fewer bytes have few pages of 4 KiB.
#[cfg(target_os = "linux")]
const LEAST_BYTES: usize = 4 << 20;

/// Asks for huge pages below `buffer`, where there are any: faults for pages of 4 KiB cost more time than writing them.
///
/// To be called before the memory is touched. Other systems than Linux do as they like.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, clippy::needless_pass_by_ref_mut))]
pub(crate) fn advise_huge_pages<T>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let bytes = size_of_val(buffer);
        // SAFETY: `sysconf` only answers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page @ 1..) = usize::try_from(page) else { return };
        let start = buffer.as_mut_ptr().cast::<u8>();
        let skipped = start.align_offset(page);
        if bytes < LEAST_BYTES || skipped >= bytes {
            return;
        }
        // SAFETY: the range lies in `buffer`, which is ours alone. The advice changes no content; where it is not
        // understood, the call fails, and nothing is lost.
        unsafe {
            libc::madvise(start.add(skipped).cast(), bytes - skipped, libc::MADV_HUGEPAGE);
        }
    }
}
