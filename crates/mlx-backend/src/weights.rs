//! The tensors of a checkpoint, handed out strictly: each once, with the shape the model expects.
//!
//! A model takes its tensors through a [`Scope`], a prefix into the checkpoint. What it does not
//! take is an error at the end ([`Weights::finish`]), so a wrong or incomplete checkpoint never
//! runs.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    rc::Rc,
};

use mlx_rs::{Array, Dtype, transforms::eval};
use safetensors::tensor::Metadata;

use crate::{
    Error, LoadError, Result,
    adapter::Products,
    checkpoint::QuantizationConfig,
    device::Backend,
    gguf::{Data, Gguf, Part, is_gguf},
    quantize::Quantize,
};

/// Longest header of a safetensors file, in bytes; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes evaluated at a time while loading, so that progress is seen and memory stays level.
const EVAL_STEP_BYTES: usize = 256 << 20;

/// Every tensor of a checkpoint, by its name in the layout of the model.
#[derive(Debug)]
pub(crate) struct Weights {
    tensors: RefCell<BTreeMap<String, Array>>,
    /// What was handed out, to be read from disk by [`finish`](Self::finish).
    taken: RefCell<Vec<Array>>,
    /// What the model computes in.
    dtype: Dtype,
    /// How packed tensors are packed.
    packed: QuantizationConfig,
    /// Quantises dense weights while loading.
    quantize: Option<Quantize>,
    /// What the model runs on.
    backend: Backend,
    /// The linear layers that were made of it.
    products: RefCell<Products>,
}

impl Weights {
    /// Opens `files` and renames their tensors; a name that `rename` maps to `None` is dropped.
    ///
    /// Nothing but headers is read yet, but of GGUF files. Float tensors are cast to `dtype` as they are
    /// taken.
    ///
    /// # Errors
    /// As [`open_tensors`].
    pub(crate) fn open(
        files: &[PathBuf],
        rename: impl Fn(&str) -> Option<String>,
        dtype: Dtype,
        packed: QuantizationConfig,
        quantize: Option<Quantize>,
        backend: Backend,
    ) -> Result<Self> {
        let tensors = open_tensors(files, rename)?;
        Ok(Self {
            tensors: RefCell::new(tensors),
            taken: RefCell::default(),
            dtype,
            packed,
            quantize,
            backend,
            products: RefCell::default(),
        })
    }

    /// Returns the scope of the whole checkpoint.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }

    /// Checks that nothing is left over, then reads every tensor taken, reporting bytes done and
    /// bytes in all. Returns the linear layers.
    ///
    /// # Errors
    /// [`LoadError::UnusedTensors`], or an error of MLX while reading.
    pub(crate) fn finish(self, progress: &dyn Fn(u64, u64)) -> Result<Products> {
        let left = self.tensors.into_inner();
        if !left.is_empty() {
            return Err(LoadError::UnusedTensors { names: left.into_keys().collect() }.into());
        }
        let taken = self.taken.into_inner();
        let total: usize = taken.iter().map(Array::nbytes).sum();
        let mut done = 0;
        let mut rest = taken.as_slice();
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while count < rest.len() && (count == 0 || bytes < EVAL_STEP_BYTES) {
                bytes += rest[count].nbytes();
                count += 1;
            }
            eval(&rest[..count])
                .map_err(|e| Error::Mlx { op: "load", message: e.what().to_owned() })?;
            done += bytes;
            progress(done as u64, total as u64);
            rest = &rest[count..];
        }
        Ok(self.products.into_inner())
    }
}

/// A prefix into [`Weights`]: `scope.sub("layers.0").take("norm.weight", &[64])`.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// Returns the scope of `name` under this one.
    pub(crate) fn sub(&self, name: impl AsRef<str>) -> Self {
        Self { weights: self.weights, prefix: self.path(name.as_ref()) }
    }

    /// Returns the full path of `name` under this scope.
    pub(crate) fn path(&self, name: &str) -> String {
        match (self.prefix.as_str(), name) {
            ("", name) => name.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    /// Returns whether a tensor of this name is (still) there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.tensors.borrow().contains_key(&self.path(name))
    }

    /// Takes a float tensor of exactly `shape`, cast to the type the model computes in.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::Shape`] or [`LoadError::Dtype`].
    pub(crate) fn take(&self, name: &str, shape: &[i32]) -> Result<Array> {
        self.keep(self.take_cast(name, shape)?)
    }

    /// As [`take`](Self::take), but it is not read at the end unless given to [`keep`](Self::keep).
    pub(crate) fn take_cast(&self, name: &str, shape: &[i32]) -> Result<Array> {
        cast(self.take_stored(name, shape)?, self.weights.dtype)
    }

    /// As [`take`](Self::take), in the type that the file holds; it is not read at the end unless
    /// given to [`keep`](Self::keep).
    pub(crate) fn take_stored(&self, name: &str, shape: &[i32]) -> Result<Array> {
        let array = self.take_shape(name, shape)?;
        match array.dtype() {
            Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16 => Ok(array),
            found => Err(self.other_type(name, "float32, float16 or bfloat16", found)),
        }
    }

    fn take_shape(&self, name: &str, shape: &[i32]) -> Result<Array> {
        let array = self.take_any_shape(name)?;
        if array.shape() != shape {
            let (expected, found) = (shape.to_vec(), array.shape().to_vec());
            return Err(LoadError::Shape { name: self.path(name), expected, found }.into());
        }
        Ok(array)
    }

    fn other_type(&self, name: &str, expected: &'static str, found: Dtype) -> Error {
        LoadError::Dtype { name: self.path(name), expected, found: format!("{found:?}") }.into()
    }

    /// Takes a packed tensor: unsigned 32-bit words. It is not read at the end unless given to
    /// [`keep`](Self::keep).
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`] or [`LoadError::Dtype`].
    pub(crate) fn take_packed(&self, name: &str) -> Result<Array> {
        let array = self.take_any_shape(name)?;
        match array.dtype() {
            Dtype::Uint32 => Ok(array),
            found => Err(self.other_type(name, "uint32", found)),
        }
    }

    /// Takes bytes of exactly `shape`, as [`take_packed`](Self::take_packed) does words.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::Shape`] or [`LoadError::Dtype`].
    pub(crate) fn take_bytes(&self, name: &str, shape: &[i32]) -> Result<Array> {
        let array = self.take_shape(name, shape)?;
        match array.dtype() {
            Dtype::Uint8 => Ok(array),
            found => Err(self.other_type(name, "uint8", found)),
        }
    }

    /// Drops the tensors under this scope, which the model has no use for.
    pub(crate) fn forget(&self) {
        let prefix = self.path("") + ".";
        self.weights.tensors.borrow_mut().retain(|name, _| !name.starts_with(&prefix));
    }

    /// Takes a tensor whatever its shape and type, as it is stored.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`].
    pub(crate) fn take_any_shape(&self, name: &str) -> Result<Array> {
        let path = self.path(name);
        let taken = self.weights.tensors.borrow_mut().remove(&path);
        taken.ok_or_else(|| LoadError::MissingTensor { name: path }.into())
    }

    /// Marks `array` as part of the model, to be evaluated by [`Weights::finish`].
    pub(crate) fn keep(&self, array: Array) -> Result<Array> {
        self.weights.taken.borrow_mut().push(array.clone());
        Ok(array)
    }

    /// Notes that the module at this scope is a linear layer, and returns its name.
    pub(crate) fn is_product(&self, output: i32, input: i32) -> Rc<str> {
        let name = self.path("");
        self.weights.products.borrow_mut().insert(name.clone(), (output, input));
        name.into()
    }

    /// Returns what the model runs on.
    pub(crate) fn backend(&self) -> Backend {
        self.weights.backend
    }

    /// Returns whether linear layers are computed outside of MLX, on weights as they are stored.
    pub(crate) fn on_host(&self) -> bool {
        self.backend().on_host(self.dtype())
    }

    /// Returns the type that the model computes in.
    pub(crate) fn dtype(&self) -> Dtype {
        self.weights.dtype
    }

    /// Returns how the module at this scope is packed, by the checkpoint's configuration.
    pub(crate) fn packed(&self) -> Option<Quantize> {
        self.weights.packed.get(&self.prefix)
    }

    /// Returns how to quantise the dense weight of the module at this scope while loading.
    pub(crate) fn quantize(&self, input_dims: i32) -> Option<Quantize> {
        self.weights.quantize.filter(|q| q.applies_to(&self.prefix, input_dims))
    }
}

/// Casts `array` to `dtype` unless it has it.
pub(crate) fn cast(array: Array, dtype: Dtype) -> Result<Array> {
    if array.dtype() == dtype {
        return Ok(array);
    }
    array.as_dtype(dtype).map_err(|e| Error::Mlx { op: "cast", message: e.what().to_owned() })
}

/// Opens the tensors of `files` under the names that `rename` gives them; `None` drops one. Nothing
/// but headers is read yet of safetensors files; the tensors of a GGUF file are read, since MLX has
/// another layout.
///
/// # Errors
/// If a file cannot be read, is not a complete safetensors or GGUF file, or holds a name twice.
pub(crate) fn open_tensors(
    files: &[PathBuf],
    rename: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, Array>> {
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, array: Array| match tensors.insert(name.clone(), array) {
        Some(_) => Err(Error::from(LoadError::Duplicate { name })),
        None => Ok(()),
    };
    for file in files {
        if is_gguf(file) {
            Gguf::open(file)?.read_parts(
                |name| rename(name).is_some(),
                |part| match rename(&part.name) {
                    Some(name) => add(name, array(&part)),
                    None => Ok(()),
                },
            )?;
            continue;
        }
        // Before MLX reads it, which trusts headers.
        read_header(file)?;
        let loaded = Array::load_safetensors(file).map_err(|e| Error::Config {
            path: file.clone(),
            reason: format!("MLX cannot read it: {e}"),
        })?;
        for (name, array) in loaded {
            if let Some(name) = rename(&name) {
                add(name, array)?;
            }
        }
    }
    Ok(tensors)
}

/// Makes a tensor of a GGUF file one of MLX.
pub(crate) fn array(part: &Part) -> Array {
    match &part.data {
        Data::F32(values) => Array::from_slice(values, &part.shape),
        Data::F16(values) => Array::from_slice(values, &part.shape),
        Data::Bf16(values) => Array::from_slice(values, &part.shape),
        Data::Words(words) => Array::from_slice(words, &part.shape),
    }
}

/// Reads and checks the header of a safetensors or GGUF file: its length, its JSON, that offsets do not
/// overlap, and that the file is as long as the header says. That of a GGUF file is returned as if it were
/// a safetensors file in the layout of MLX.
///
/// # Errors
/// If the file cannot be read or is not a complete one.
pub(crate) fn read_header(path: &Path) -> Result<Metadata> {
    if is_gguf(path) {
        return Gguf::open(path)?.parts();
    }
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    safetensors_header(path, file, length)
}

/// As [`read_header`], from a reader of the `file_len` bytes of the safetensors file at `path`.
pub(crate) fn safetensors_header(
    path: &Path,
    mut file: impl Read,
    file_len: u64,
) -> Result<Metadata> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let mut length = [0; 8];
    if file_len < 8 {
        return Err(bad(format!("a safetensors file has at least 8 bytes, found {file_len}")));
    }
    file.read_exact(&mut length).map_err(io)?;
    let header_len = u64::from_le_bytes(length);
    if header_len > MAX_HEADER_BYTES || header_len > file_len - 8 {
        return Err(bad(format!(
            "corrupt safetensors header: it claims {header_len} bytes of a file of {file_len}"
        )));
    }
    let header_len = usize::try_from(header_len).map_err(|e| bad(e.to_string()))?;
    let mut bytes = vec![0; header_len];
    file.read_exact(&mut bytes).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&bytes)
        .map_err(|e| bad(format!("corrupt safetensors header: {e}")))?;
    let mut end = 0;
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d));
        let (from, to) = info.data_offsets;
        if from != end || bits.map(|bits| bits / 8) != to.checked_sub(from) {
            return Err(bad(format!(
                "corrupt safetensors header: tensor `{name}` of shape {:?} at bytes {from}..{to}",
                info.shape
            )));
        }
        end = to;
    }
    let expected = 8 + header_len as u64 + end as u64;
    if expected != file_len {
        return Err(bad(format!("expected {expected} bytes by its header, found {file_len}")));
    }
    Ok(metadata)
}
