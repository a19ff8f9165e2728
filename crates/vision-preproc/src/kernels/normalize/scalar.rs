//! The specification: one number at a time, from the table.

use crate::kernels::Element;
use crate::normalize::Table;

pub(super) fn normalize<T: Element>(table: &Table, channels: &[u8], bytes: &[u8], dst: &mut [T]) {
    for ((value, &byte), &channel) in dst.iter_mut().zip(bytes).zip(channels) {
        *value = T::from_f32(table.value(usize::from(channel), byte));
    }
}
