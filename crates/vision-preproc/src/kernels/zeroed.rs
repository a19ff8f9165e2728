//! Large values that are all zeros, made where they stay.

/// A type that zeros are a value of.
///
/// # Safety
/// Bytes that are all zero must be a valid value.
pub(crate) unsafe trait Zeroed {}

/// A value of zeros, which never was on the stack, and whose memory is not touched before it is used.
pub(crate) fn zeroed<T: Zeroed>() -> Box<T> {
    let zeros = Box::<T>::new_zeroed();
    // SAFETY: the trait says that zeros are a value.
    unsafe { zeros.assume_init() }
}
