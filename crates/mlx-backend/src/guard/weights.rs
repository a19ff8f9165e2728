//! How many bytes the weights of a checkpoint take in memory, by the headers of its files.

use std::path::PathBuf;

use safetensors::{Dtype, tensor::TensorInfo};

use super::footprint::{product, sum};
use crate::{
    Result,
    quantize::{QuantizationMode, Quantize},
    weights::read_header,
};

/// Returns the bytes that the tensors of `files` take once they are loaded: floats in a type of
/// `value_bytes` (matrices as they are stored if `on_host`), everything else as it is stored, and dense
/// weights packed if `quantize` says so.
/// Tensors that `rename` drops do not count.
///
/// # Errors
/// If a file cannot be read or is not a complete safetensors file.
pub(crate) fn resident_bytes(
    files: &[PathBuf],
    rename: impl Fn(&str) -> Option<String>,
    value_bytes: u64,
    quantize: Option<Quantize>,
    on_host: bool,
) -> Result<u64> {
    let mut total = 0;
    for file in files {
        let header = read_header(file)?;
        let tensors = header.tensors();
        // A module with scales is packed already.
        let packed = |module: &str| tensors.contains_key(&format!("{module}.scales"));
        total = sum(tensors
            .iter()
            .filter_map(|(name, info)| {
                let renamed = rename(name)?;
                let quantize = match (name.strip_suffix(".weight"), renamed.strip_suffix(".weight"))
                {
                    (Some(stored), Some(module)) if !packed(stored) => {
                        quantize.filter(|q| packs(*q, module, &info.shape))
                    }
                    _ => None,
                };
                let stored = info.dtype.bitsize() as u64 / 8;
                let value_bytes = match on_host && info.shape.len() == 2 {
                    true => stored,
                    false => value_bytes,
                };
                Some(tensor_bytes(info, value_bytes, quantize))
            })
            .chain([total]));
    }
    Ok(total)
}

fn packs(quantize: Quantize, module: &str, shape: &[usize]) -> bool {
    let [_, input] = shape else { return false };
    i32::try_from(*input).is_ok_and(|input| quantize.applies_to(module, input))
}

fn tensor_bytes(info: &TensorInfo, value_bytes: u64, quantize: Option<Quantize>) -> u64 {
    let sizes: Vec<u64> = info.shape.iter().map(|&size| size as u64).collect();
    let values = product(&sizes);
    match (info.dtype, quantize) {
        (Dtype::F32 | Dtype::F16 | Dtype::BF16, Some(quantize)) => {
            let bits = u64::from(quantize.bits.unsigned_abs());
            let groups = values / u64::from(quantize.group_size.unsigned_abs()).max(1);
            // A scale and a bias for each group, or a byte.
            let of_group = match quantize.mode {
                QuantizationMode::Affine => 2 * value_bytes,
                _ => 1,
            };
            sum([product(&[values, bits]) / 8, product(&[groups, of_group])])
        }
        (Dtype::F32 | Dtype::F16 | Dtype::BF16, None) => product(&[values, value_bytes]),
        _ => {
            let (from, to) = info.data_offsets;
            (to - from) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{checkpoint::Checkpoint, models};

    fn bytes(checkpoint: &str, value_bytes: u64, quantize: Option<Quantize>) -> u64 {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(checkpoint);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let architecture = models::architecture(checkpoint.model_type()).unwrap();
        let files = checkpoint.weight_files();
        resident_bytes(files, architecture.rename, value_bytes, quantize, false).unwrap()
    }

    #[test]
    fn on_the_host_matrices_stay_as_they_are_stored() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
        let checkpoint = Checkpoint::open(&path).unwrap();
        let rename = models::architecture(checkpoint.model_type()).unwrap().rename;
        let found = resident_bytes(checkpoint.weight_files(), rename, 4, None, true).unwrap();
        let (halves, singles) =
            (bytes("models/tiny-vl/full", 2, None), bytes("models/tiny-vl/full", 4, None));
        assert!(halves < found && found < halves + singles / 10, "{halves} {found} {singles}");
    }

    #[test]
    fn floats_take_the_type_of_the_model_and_packed_words_stay() {
        let stored = bytes("models/tiny-vl/full", 2, None);
        assert_eq!(bytes("models/tiny-vl/full", 4, None), 2 * stored);
        let (halves, singles) =
            (bytes("models/tiny-vl/4bit", 2, None), bytes("models/tiny-vl/4bit", 4, None));
        assert!(halves < stored && singles > halves && singles < 2 * halves, "{halves} {singles}");
    }

    #[test]
    fn packing_while_loading_counts_as_the_packed_checkpoint() {
        // The converter of mlx-vlm packed the one on the right.
        let packed = bytes("models/tiny-vl/full", 2, Some(Quantize::default()));
        assert_eq!(packed, bytes("models/tiny-vl/4bit", 2, None));
    }
}
