use crate::{Error, Size};

/// How much an image may ask for, checked against its header before anything is allocated.
///
/// The defaults refuse what Pillow refuses as a decompression bomb and what `smart_resize` refuses as too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most pixels (width times height) of a decoded or a resized image; 178 956 970 by default.
    pub max_pixels: u64,
    /// The most bytes of an encoded image; 256 MiB by default.
    pub max_encoded_bytes: u64,
    /// The largest ratio of the longer to the shorter side; 200 by default.
    pub max_aspect: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 178_956_970, max_encoded_bytes: 256 << 20, max_aspect: 200 }
    }
}

impl Limits {
    /// Checks the length of an encoded image.
    ///
    /// # Errors
    /// [`Error::Limit`] if `bytes` exceeds `max_encoded_bytes`.
    pub fn check_encoded(&self, bytes: usize) -> Result<(), Error> {
        let found = bytes as u64;
        if found > self.max_encoded_bytes {
            let limit = self.max_encoded_bytes;
            return Err(Error::Limit { what: "size of the encoded image in bytes", limit, found });
        }
        Ok(())
    }

    /// Checks the dimensions of an image.
    ///
    /// # Errors
    /// [`Error::Limit`] if `size` has more than `max_pixels` or is narrower than `max_aspect` allows;
    /// [`Error::Shape`] if a side is zero.
    pub fn check_size(&self, size: Size) -> Result<(), Error> {
        let (long, short) = (size.width.max(size.height), size.width.min(size.height));
        if short == 0 {
            return Err(Error::Shape {
                expected: "an image with at least one pixel".into(),
                found: size.to_string(),
            });
        }
        if size.pixels() > self.max_pixels {
            let (limit, found) = (self.max_pixels, size.pixels());
            return Err(Error::Limit { what: "number of pixels", limit, found });
        }
        if u64::from(long) > u64::from(short) * u64::from(self.max_aspect) {
            return Err(Error::Limit {
                what: "ratio of the longer to the shorter side",
                limit: self.max_aspect.into(),
                found: u64::from(long).div_ceil(u64::from(short)),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_inclusive() {
        let limits = Limits { max_pixels: 200, max_encoded_bytes: 10, max_aspect: 200 };
        assert!(limits.check_encoded(10).is_ok());
        assert!(matches!(limits.check_encoded(11), Err(Error::Limit { found: 11, .. })));
        assert!(limits.check_size(Size { width: 200, height: 1 }).is_ok());
        assert!(limits.check_size(Size { width: 201, height: 1 }).is_err());
        let wide = Limits { max_pixels: 1000, ..limits };
        assert!(matches!(
            wide.check_size(Size { width: 1, height: 201 }),
            Err(Error::Limit { limit: 200, found: 201, .. })
        ));
        assert!(matches!(wide.check_size(Size { width: 0, height: 5 }), Err(Error::Shape { .. })));
    }
}
