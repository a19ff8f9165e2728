//! What a conversion will write: every tensor with its place in a file, before any is computed.

use std::collections::HashMap;

use mlx_rs::{Array, Dtype};
use safetensors::tensor::{Dtype as StoredType, Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use super::convert_error;
use crate::{
    Error, Result, ffi,
    nn::mlx_error,
    quantize::Quantize,
    recipe::{Recipe, entry},
};

/// Most bytes of a weight file, but for a file of one layer.
const MAX_FILE_BYTES: usize = 5 << 30;

/// All that will be written.
pub(super) struct Plan {
    /// In the order of the files.
    pub(super) steps: Vec<Step>,
    pub(super) files: Vec<FilePlan>,
    /// The block `quantization` of `config.json`.
    pub(super) block: Value,
    /// Bytes of all tensors.
    pub(super) bytes: u64,
}

/// One tensor of the source: what becomes of it, not yet computed.
pub(super) struct Step {
    /// Which file it goes to.
    pub(super) file: usize,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// Bytes of all parts, which lie side by side.
    pub(super) bytes: u64,
    pub(super) parts: Vec<Array>,
}

/// A weight file.
pub(super) struct FilePlan {
    pub(super) name: String,
    /// The length and the text of its header.
    pub(super) header: Vec<u8>,
    pub(super) bytes: u64,
    /// The names of its tensors.
    pub(super) tensors: Vec<String>,
}

impl Plan {
    /// Plans the conversion of `tensors`, by name, with their floats cast to `dtype` first.
    pub(super) fn new(
        tensors: impl IntoIterator<Item = (String, Array)>,
        recipe: &Recipe,
        layers: usize,
        dtype: Option<Dtype>,
    ) -> Result<Self> {
        let mut block = entry(recipe.default());
        let mut files: Vec<Vec<(String, TensorInfo)>> = vec![Vec::new()];
        let (mut steps, mut end, mut total) = (Vec::new(), 0, 0);
        for (name, array) in tensors {
            let (module, how) = packing(&name, &array, recipe, layers);
            if let Some(how) = how
                && how != recipe.default()
            {
                block[&module] = entry(how);
            }
            let parts = converted(name, array, &module, how, dtype)?;
            let bytes: usize = parts.iter().map(|(_, array)| array.nbytes()).sum();
            if end > 0 && end + bytes > MAX_FILE_BYTES {
                files.push(Vec::new());
                end = 0;
            }
            let (file, offset) = (files.len() - 1, end as u64);
            let mut arrays = Vec::new();
            for (name, array) in parts {
                let from = end;
                end += array.nbytes();
                files[file].push((name, info(&array, (from, end))?));
                arrays.push(array);
            }
            total += bytes as u64;
            steps.push(Step { file, offset, bytes: bytes as u64, parts: arrays });
        }
        let count = files.len();
        let files: Vec<FilePlan> = files
            .into_iter()
            .enumerate()
            .map(|(i, tensors)| FilePlan::new(i, count, tensors))
            .collect::<Result<_>>()?;
        for step in &mut steps {
            step.offset += files[step.file].header.len() as u64;
        }
        Ok(Self { steps, files, block, bytes: total })
    }

    /// Returns `model.safetensors.index.json`.
    pub(super) fn index(&self) -> Value {
        let mut map = Map::new();
        for file in &self.files {
            map.extend(file.tensors.iter().map(|name| (name.clone(), json!(file.name))));
        }
        map.sort_keys();
        json!({"metadata": {"total_size": self.bytes}, "weight_map": map})
    }
}

impl FilePlan {
    fn new(index: usize, count: usize, tensors: Vec<(String, TensorInfo)>) -> Result<Self> {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", index + 1),
        };
        let names = tensors.iter().map(|(name, _)| name.clone()).collect();
        let data = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
        let format = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
        let metadata = Metadata::new(Some(format), tensors).map_err(|e| convert_error(&e))?;
        let mut text = serde_json::to_vec(&metadata).map_err(|e| convert_error(&e))?;
        // Values begin at a multiple of eight.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        let bytes = (header.len() + data) as u64;
        Ok(Self { name, header, bytes, tensors: names })
    }
}

/// Returns the module that the tensor `name` belongs to, and how it is packed, if it is.
fn packing(
    name: &str,
    array: &Array,
    recipe: &Recipe,
    layers: usize,
) -> (String, Option<Quantize>) {
    match name.strip_suffix(".weight") {
        Some(module) if array.ndim() == 2 => {
            (module.to_owned(), recipe.packing(module, array.dim(1), layers))
        }
        _ => (name.to_owned(), None),
    }
}

/// Returns what becomes of a tensor: itself, or words, scales and, in the mode affine, biases.
fn converted(
    name: String,
    array: Array,
    module: &str,
    how: Option<Quantize>,
    dtype: Option<Dtype>,
) -> Result<Vec<(String, Array)>> {
    let fail = |e: mlx_rs::error::Exception| mlx_error("quantize", &e);
    let array = match dtype {
        Some(dtype) if array.dtype() != dtype && is_float(array.dtype()) => {
            array.as_dtype(dtype).map_err(fail)?
        }
        _ => array,
    };
    if array.ndim() == 5 && array.dim(4) == array.dim(3) {
        // The patch projection in PyTorch's layout; MLX has the channels last.
        let moved = array.transpose_axes(&[0, 2, 3, 4, 1]).map_err(fail)?;
        // Flattening copies what the transposition left in place, and a file has no strides.
        let flat = moved.reshape(&[-1]).map_err(fail)?;
        return Ok(vec![(name, flat.reshape(moved.shape()).map_err(fail)?)]);
    }
    let Some(how) = how else { return Ok(vec![(name, array)]) };
    let (words, scales, biases) = ffi::quantize(&array, how).map_err(fail)?;
    let biases = biases.map(|biases| (format!("{module}.biases"), biases));
    let parts = [(name, words), (format!("{module}.scales"), scales)];
    Ok(parts.into_iter().chain(biases).collect())
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

fn info(array: &Array, data_offsets: (usize, usize)) -> Result<TensorInfo> {
    let shape = array.shape().iter().map(|&size| size.unsigned_abs() as usize).collect();
    let dtype: StoredType = match array.dtype() {
        Dtype::Float32 => StoredType::F32,
        Dtype::Float16 => StoredType::F16,
        Dtype::Bfloat16 => StoredType::BF16,
        Dtype::Uint32 => StoredType::U32,
        Dtype::Uint8 => StoredType::U8,
        other => {
            return Err(Error::Prompt(format!("tensors of type {other:?} cannot be converted")));
        }
    };
    Ok(TensorInfo { dtype, shape, data_offsets })
}
