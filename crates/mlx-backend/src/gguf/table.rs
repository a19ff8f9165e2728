//! The table of tensors.

use std::{collections::BTreeSet, io::Read, ops::Range};

use super::{kind::Kind, source::Source};

/// Longest name; ggml has room for 64 bytes.
const MAX_NAME_BYTES: u64 = 256;
const MAX_AXES: u32 = 4;
/// Bytes of the shortest entry: a name of none, one axis, a type and an offset.
const ENTRY_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Where a tensor is, and what.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The last is that of values which lie side by side, as in MLX; the file has the other order.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<u64>,
}

impl Tensor {
    /// Returns the bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        let columns = self.shape.last().copied().unwrap_or(1);
        columns / self.kind.block() * self.kind.block_bytes()
    }
}

/// Reads `count` entries, whose tensors follow in a file of `length` bytes, each at a multiple of
/// `alignment`, and returns them with the place at which tensors begin.
///
/// # Errors
/// A sentence with the place at which that is not possible, or with the tensor that is not as it must be.
pub(super) fn read_table<R: Read>(
    source: &mut Source<R>,
    count: u64,
    alignment: u64,
    length: u64,
) -> Result<(Vec<Tensor>, u64), String> {
    source.expect("the table of tensors", count, ENTRY_BYTES)?;
    let mut tensors = Vec::new();
    let mut names = BTreeSet::new();
    for _ in 0..count {
        let tensor = read_entry(source, alignment)?;
        if !names.insert(tensor.name.clone()) {
            return Err(source.corrupt(&format!("the tensor `{}` is there twice", tensor.name)));
        }
        tensors.push(tensor);
    }
    let start = source.at().next_multiple_of(alignment);
    for tensor in &mut tensors {
        let Range { start: from, end: to } = tensor.range;
        let placed = start.checked_add(from).zip(start.checked_add(to));
        let fits = placed.filter(|&(_, to)| to <= length);
        let (from, to) = fits.ok_or_else(|| {
            format!(
                "corrupt GGUF: tensor `{}` is at bytes {from}..{to} after byte {start}, in a file of \
                 {length} bytes",
                tensor.name
            )
        })?;
        tensor.range = from..to;
    }
    let mut in_order: Vec<&Tensor> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.range.start);
    for pair in in_order.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            return Err(format!(
                "corrupt GGUF: tensors `{}` at bytes {:?} and `{}` at bytes {:?} overlap",
                a.name, a.range, b.name, b.range
            ));
        }
    }
    Ok((tensors, start))
}

/// Reads an entry; the range of the tensor counts from where tensors begin.
fn read_entry<R: Read>(source: &mut Source<R>, alignment: u64) -> Result<Tensor, String> {
    let name = source.text("the name of a tensor", MAX_NAME_BYTES)?;
    let bad = |source: &Source<R>, reason: String| {
        Err(source.corrupt(&format!("tensor `{name}` {reason}")))
    };
    let axes = source.u32("the number of axes")?;
    if !(1..=MAX_AXES).contains(&axes) {
        return bad(source, format!("has {axes} axes, expected 1 to {MAX_AXES}"));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        let size = source.u64("the size of an axis")?;
        // MLX counts in 32 bits.
        match i32::try_from(size) {
            Ok(size) if size > 0 => shape.insert(0, size.unsigned_abs() as usize),
            _ => return bad(source, format!("has an axis of {size}, expected 1 to {}", i32::MAX)),
        }
    }
    let kind = match Kind::from_id(source.u32("the type of a tensor")?) {
        Ok(kind) => kind,
        Err(reason) => return bad(source, format!("is {reason}")),
    };
    let offset = source.u64("the offset of a tensor")?;
    if offset % alignment != 0 {
        return bad(source, format!("is at {offset}, expected a multiple of {alignment}"));
    }
    let columns = shape.last().copied().unwrap_or(1);
    if columns % kind.block() != 0 {
        return bad(
            source,
            format!("has rows of {columns} values, expected a multiple of {}", kind.block()),
        );
    }
    let values = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
    let bytes = values.and_then(|n| (n / kind.block()).checked_mul(kind.block_bytes()));
    let end = bytes.and_then(|bytes| offset.checked_add(bytes as u64));
    match end {
        Some(end) => Ok(Tensor { name, kind, shape, range: offset..end }),
        None => bad(source, format!("of shape {shape:?} at {offset} is beyond any file")),
    }
}
