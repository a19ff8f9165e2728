//! Keys by content: what a cached value was made from, hashed.

use std::fmt;

/// A BLAKE3 hash of everything that a value depends on.
///
/// Equal digests mean equal content: nobody, by accident or on purpose, makes two inputs with the
/// same 256 bits. That is what lets a cache answer without comparing the inputs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Hashes `parts` as values of the kind `domain`; each part counts with its length, so that
    /// `["ab", "c"]` and `["a", "bc"]` differ.
    pub(crate) fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Returns the 32 bytes.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_parts_and_the_domain_count() {
        let all = [
            Digest::of("a", &[b"ab", b"c"]),
            Digest::of("a", &[b"a", b"bc"]),
            Digest::of("a", &[b"abc"]),
            Digest::of("a", &[b"abc", b""]),
            Digest::of("b", &[b"abc"]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(all[0], Digest::of("a", &[b"ab", b"c"]));
        assert_eq!(all[0].to_string().len(), 64);
    }
}
