//! The tensors under the names of Hugging Face and in the layout of MLX: a matrix of blocks becomes words,
//! scales and biases.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::{
    Gguf,
    blocks::{Block, pack, values},
    config::Heads,
    kind::{GROUP, Kind},
    table::Tensor,
};
use crate::{Error, Result, checkpoint::QuantizationConfig, quantize::Quantize};

/// A tensor as MLX takes it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) shape: Vec<i32>,
    pub(crate) data: Data,
}

/// The values of a tensor, or the words of a packed one.
#[derive(Debug)]
pub(crate) enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Words(Vec<u32>),
}

impl Gguf {
    /// Returns what a safetensors file with the same parts would have as its header.
    ///
    /// # Errors
    /// [`Error::Config`] if there are more bytes than can be counted.
    pub(crate) fn parts(&self) -> Result<Metadata> {
        let mut end = 0_usize;
        let mut infos = Vec::new();
        for tensor in &self.tensors {
            for (name, dtype, shape) in outline(tensor) {
                let values = shape.iter().product::<usize>();
                let start = end;
                end = values
                    .checked_mul(dtype.bitsize() / 8)
                    .and_then(|bytes| start.checked_add(bytes))
                    .ok_or_else(|| self.config_error(format!("tensor `{name}` is too large")))?;
                infos.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
            }
        }
        Metadata::new(None, infos).map_err(|e| self.config_error(e.to_string()))
    }

    /// Returns how matrices are packed; what most are is the default.
    pub(crate) fn quantization(&self) -> QuantizationConfig {
        let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
        let mut config = QuantizationConfig::default();
        for (module, how) in self.tensors.iter().filter_map(packed_module) {
            *counts.entry(how.bits).or_default() += 1;
            config.per_path.insert(module, Some(how));
        }
        let most = counts.into_iter().max_by_key(|&(_, count)| count);
        config.default = most.map(|(bits, _)| Quantize::affine(bits, GROUP as i32));
        config
    }

    /// Reads every tensor that `wanted` does not refuse by its name, and hands its parts to `take`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Config`] that names a tensor which is not as the
    /// model's are; and those of `take`.
    pub(crate) fn read_parts(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut take: impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        let io = |source| Error::Io { action: "read", path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(io)?;
        let heads = self.heads()?;
        for tensor in &self.tensors {
            if !outline(tensor).iter().any(|(name, ..)| wanted(name)) {
                continue;
            }
            let length = tensor.range.end - tensor.range.start;
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(tensor.range.start)).map_err(io)?;
            file.by_ref().take(length).read_to_end(&mut bytes).map_err(io)?;
            if bytes.len() as u64 != length {
                let found = bytes.len();
                return Err(self.config_error(format!(
                    "tensor `{}`: expected {length} bytes, found {found}; the file became shorter",
                    tensor.name
                )));
            }
            if let Some(heads) = heads.of(&tensor.name) {
                bytes = in_halves(&bytes, tensor, heads).map_err(|e| self.config_error(e))?;
            }
            for part in convert(tensor, &bytes).map_err(|e| self.config_error(e))? {
                take(part)?;
            }
        }
        Ok(())
    }
}

/// Returns the name in checkpoints of Hugging Face for one of a GGUF file; other names stay.
pub(super) fn renamed(name: &str) -> String {
    let top = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    let in_layer = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, part) = rest.rsplit_once('.')?;
        let module = match module {
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{module}.{part}"))
    };
    top.map(str::to_owned).or_else(in_layer).unwrap_or_else(|| name.to_owned())
}

/// Returns module and packing of a tensor that is kept packed.
fn packed_module(tensor: &Tensor) -> Option<(String, Quantize)> {
    let how = tensor.kind.packing().filter(|_| tensor.shape.len() == 2)?;
    let name = renamed(&tensor.name);
    Some((name.strip_suffix(".weight")?.to_owned(), how))
}

/// Returns name, type and shape of the parts of `tensor`.
fn outline(tensor: &Tensor) -> Vec<(String, Dtype, Vec<usize>)> {
    let (name, shape) = (renamed(&tensor.name), tensor.shape.clone());
    // The frequencies of rotation are in the configuration.
    if name == super::config::ROPE_FACTORS {
        return Vec::new();
    }
    if let (Some((module, how)), &[rows, columns]) = (packed_module(tensor), &shape[..]) {
        let words = columns / 32 * how.bits.unsigned_abs() as usize;
        let of_groups = if tensor.kind.has_half_scales() { Dtype::F16 } else { Dtype::F32 };
        let groups = vec![rows, columns / GROUP];
        return vec![
            (name, Dtype::U32, vec![rows, words]),
            (format!("{module}.scales"), of_groups, groups.clone()),
            (format!("{module}.biases"), of_groups, groups),
        ];
    }
    let dtype = match tensor.kind {
        Kind::F16 => Dtype::F16,
        Kind::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    vec![(name, dtype, shape)]
}

/// Returns the parts of `tensor`, whose bytes are `bytes`.
pub(super) fn convert(tensor: &Tensor, bytes: &[u8]) -> Result<Vec<Part>, String> {
    let parts = match (tensor.kind, packed_module(tensor)) {
        (_, Some((_, how))) => {
            let (words, scales, biases) = packed(tensor, how, bytes);
            let of_groups = |numbers: Vec<f32>| match tensor.kind.has_half_scales() {
                true => halves(tensor, &numbers),
                false => Ok(Data::F32(numbers)),
            };
            vec![Data::Words(words), of_groups(scales)?, of_groups(biases)?]
        }
        (Kind::F32, None) => vec![Data::F32(each(bytes, f32::from_le_bytes))],
        (Kind::F16, None) => vec![Data::F16(each(bytes, f16::from_le_bytes))],
        (Kind::Bf16, None) => vec![Data::Bf16(each(bytes, bf16::from_le_bytes))],
        (kind, None) => {
            let mut all = vec![0.0; bytes.len() / kind.block_bytes() * kind.block()];
            all.par_chunks_mut(kind.block())
                .zip(bytes.par_chunks(kind.block_bytes()))
                .for_each(|(all, bytes)| values(kind, bytes, all));
            vec![Data::F32(all)]
        }
    };
    let part = |((name, _, shape), data): ((String, Dtype, Vec<usize>), Data)| {
        // The table has no axis that is longer.
        let shape = shape.into_iter().map(|size| i32::try_from(size).unwrap_or(i32::MAX)).collect();
        Part { name, shape, data }
    };
    Ok(outline(tensor).into_iter().zip(parts).map(part).collect())
}

/// Words, scales and biases of a matrix that is packed as `how`.
fn packed(tensor: &Tensor, how: Quantize, bytes: &[u8]) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let (kind, bits) = (tensor.kind, how.bits.unsigned_abs());
    let blocks = bytes.len() / kind.block_bytes();
    let (words_each, groups_each) = (kind.block() / 32 * bits as usize, kind.block() / GROUP);
    let mut words = vec![0; blocks * words_each];
    let mut scales = vec![0.0; blocks * groups_each];
    let mut biases = vec![0.0; blocks * groups_each];
    // A row at a time, since a block is too little work for a thread.
    let in_row = (tensor.row_bytes() / kind.block_bytes()).max(1);
    words
        .par_chunks_mut(words_each * in_row)
        .zip(scales.par_chunks_mut(groups_each * in_row))
        .zip(biases.par_chunks_mut(groups_each * in_row))
        .zip(bytes.par_chunks(kind.block_bytes() * in_row))
        .for_each(|(((words, scales), biases), bytes)| {
            let mut block = Block::default();
            let places = words
                .chunks_exact_mut(words_each)
                .zip(scales.chunks_exact_mut(groups_each))
                .zip(biases.chunks_exact_mut(groups_each));
            for (((words, scales), biases), bytes) in
                places.zip(bytes.chunks_exact(kind.block_bytes()))
            {
                block.read(kind, bytes);
                pack(&block.codes[..kind.block()], bits, words);
                scales.copy_from_slice(&block.scales[..groups_each]);
                biases.copy_from_slice(&block.biases[..groups_each]);
            }
        });
    (words, scales, biases)
}

/// Returns numbers that f16 holds as such.
fn halves(tensor: &Tensor, numbers: &[f32]) -> Result<Data, String> {
    let halves: Vec<f16> = numbers.iter().map(|&number| f16::from_f32(number)).collect();
    match halves.iter().zip(numbers).find(|(half, _)| !half.is_finite()) {
        None => Ok(Data::F16(halves)),
        Some((_, number)) => Err(format!(
            "tensor `{}` of type {} has a scale or bias of {number}, beyond f16",
            tensor.name,
            tensor.kind.name()
        )),
    }
}

fn each<T, const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|bytes| read(*bytes)).collect()
}

/// Returns the rows of queries or keys in the order of Hugging Face. Converters of Llama put rows beside each
/// other that are turned together, `0, D/2, 1, D/2 + 1, ..` of each head.
fn in_halves(bytes: &[u8], tensor: &Tensor, heads: Heads) -> Result<Vec<u8>, String> {
    let (rows, row_bytes) = match tensor.shape[..] {
        [rows, _] => (rows, tensor.row_bytes()),
        // A bias.
        [rows] => (rows, tensor.kind.block_bytes()),
        _ => (0, 0),
    };
    let head = rows / heads.max(1);
    if row_bytes == 0
        || tensor.kind.block() > 1 && tensor.shape.len() == 1
        || head * heads != rows
        || !head.is_multiple_of(2)
    {
        return Err(format!(
            "tensor `{}` has shape {:?}, expected rows for {heads} heads",
            tensor.name, tensor.shape
        ));
    }
    let mut sorted = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (first, at) = (row / head * head, row % head);
        let from = first + at % (head / 2) * 2 + at / (head / 2);
        sorted.extend_from_slice(&bytes[from * row_bytes..][..row_bytes]);
    }
    Ok(sorted)
}
