//! The numbers that a vision tower can read.

use half::{bf16, f16};

/// A number of the output: `f32`, or `f16` and `bf16` of the `half` crate, rounded to the nearest, ties to even.
pub trait Element: Copy + Send + Sync + private::Sealed + 'static {
    /// The nearest number to `value`.
    fn from_f32(value: f32) -> Self;
}

pub(crate) mod private {
    /// Tells the kernels what they write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind {
        F32,
        F16,
        Bf16,
    }

    pub trait Sealed {
        const KIND: Kind;
    }
}

macro_rules! element {
    ($type:ty, $kind:ident, $from:expr) => {
        impl private::Sealed for $type {
            const KIND: private::Kind = private::Kind::$kind;
        }

        impl Element for $type {
            fn from_f32(value: f32) -> Self {
                $from(value)
            }
        }
    };
}

element!(f32, F32, std::convert::identity);
element!(f16, F16, f16::from_f32);
element!(bf16, Bf16, bf16::from_f32);
