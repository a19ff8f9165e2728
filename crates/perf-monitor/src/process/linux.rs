//! Linux: `/proc/self/status` for memory, `/proc/self/clear_refs` to restart the high-water mark.

use std::{fs::File, io::Read};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Memory;

/// Reads the resident set and its high-water mark.
///
/// The file is opened anew each time: a kept one would show the parent after a fork.
pub(crate) fn memory() -> Memory {
    read_status(parse)
}

/// Returns how many bytes of address space this process may still take; `None` if that has no limit, which
/// `ulimit -v` sets.
pub(crate) fn address_space_left() -> Option<u64> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (limit != RLIM_INFINITY).then(|| limit.saturating_sub(read_status(|s| field(s, b"VmSize:"))))
}

fn read_status<T>(parse: impl FnOnce(&[u8]) -> T) -> T {
    // The interesting lines are in the first kilobyte; the file as a whole has about one and a half.
    let mut buffer = [0u8; 4096];
    let length =
        File::open("/proc/self/status").and_then(|mut file| file.read(&mut buffer)).unwrap_or(0);
    parse(&buffer[..length])
}

/// Makes the high-water mark start again from the present resident set; false where the system refuses.
///
/// The value 5 is described in `proc_pid_clear_refs(5)`. It needs a kernel built with page monitoring, and containers
/// often mount /proc read-only.
pub(crate) fn reset_high_water() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn parse(status: &[u8]) -> Memory {
    Memory { resident: field(status, b"VmRSS:"), high_water: field(status, b"VmHWM:") }
}

/// Returns the bytes of the line that begins with `name`; 0 if there is none.
fn field(status: &[u8], name: &[u8]) -> u64 {
    let mut lines = status.split(|&byte| byte == b'\n');
    lines.find_map(|line| line.strip_prefix(name)).map_or(0, kibibytes)
}

/// Parses `   1234 kB` to bytes.
fn kibibytes(text: &[u8]) -> u64 {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0u64, |value, &digit| {
        value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_status_file() {
        let text = b"Name:\tcat\nVmPeak:\t  9999 kB\nVmHWM:\t    1756 kB\nVmRSS:\t    1640 kB\nRssAnon:\t 116 kB\n";
        assert_eq!(parse(text), Memory { resident: 1640 * 1024, high_water: 1756 * 1024 });
        assert_eq!(parse(b"Name:\tkthread\n"), Memory::default());
    }
}
