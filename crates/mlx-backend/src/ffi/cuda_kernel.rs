//! A kernel of our own on CUDA, compiled when it is first used.

use std::{
    ffi::CString,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use mlx_rs::{
    Array, Stream,
    error::{Exception, Result as MlxResult},
};

use super::array;

/// A kernel with one output of bf16.
#[derive(Debug)]
pub(crate) struct CudaKernel {
    kernel: mlx_sys::mlx_fast_cuda_kernel,
    config: mlx_sys::mlx_fast_cuda_kernel_config,
}

/// What a kernel is made of.
#[derive(Debug)]
pub(crate) struct CudaSource<'a> {
    pub(crate) name: &'a str,
    /// Names of the arrays that it reads.
    pub(crate) inputs: &'a [&'a str],
    /// Functions, of files of this crate.
    pub(crate) header: &'a [&'a str],
    pub(crate) body: &'a str,
    /// Of the output `y`.
    pub(crate) shape: &'a [i32],
    /// Floats of a second output, `parts`, which is dropped; none if zero.
    pub(crate) scratch: i32,
    pub(crate) blocks: i32,
    /// Of a block.
    pub(crate) threads: i32,
    /// Bytes that a block has of memory whose size the text does not tell.
    pub(crate) shared_bytes: i32,
}

impl CudaKernel {
    /// Returns the kernel, not yet compiled.
    pub(crate) fn new(source: &CudaSource<'_>) -> MlxResult<Self> {
        let text = |s: &str| CString::new(s).map_err(|e| Exception::custom(e.to_string()));
        let texts = |s: &[&str]| s.iter().map(|s| text(s)).collect::<MlxResult<Vec<_>>>();
        // MLX reads the text for every call: the shorter, the better.
        let header = source.header.iter().flat_map(|file| file.lines()).map(str::trim);
        let header = header.filter(|line| !line.starts_with("//")).flat_map(|line| [line, "\n"]);
        let header = header.collect::<String>();
        // MLX compiles a name once, whatever its text.
        let mut hasher = DefaultHasher::new();
        (&header, source.body).hash(&mut hasher);
        let name = text(&format!("{}_{:016x}", source.name, hasher.finish()))?;
        let (header, body) = (text(&header)?, text(source.body)?);
        let inputs = texts(source.inputs)?;
        let (bf16, f32) = (mlx_sys::mlx_dtype__MLX_BFLOAT16, mlx_sys::mlx_dtype__MLX_FLOAT32);
        let scratch = [source.scratch];
        let mut outputs = vec![("y", source.shape, bf16)];
        if source.scratch > 0 {
            outputs.push(("parts", &scratch, f32));
        }
        let output_names = texts(&outputs.iter().map(|output| output.0).collect::<Vec<_>>())?;
        // SAFETY: every pointer is to a value that outlives the call it is given to, MLX copies texts
        // and shapes, and the two lists of texts are freed once. What is kept is freed by `drop`.
        unsafe {
            let list = |texts: &[CString]| {
                let list = mlx_sys::mlx_vector_string_new();
                for text in texts {
                    mlx_sys::mlx_vector_string_append_value(list, text.as_ptr());
                }
                list
            };
            let (inputs, output_names) = (list(&inputs), list(&output_names));
            let kernel = mlx_sys::mlx_fast_cuda_kernel_new(
                name.as_ptr(),
                inputs,
                output_names,
                body.as_ptr(),
                header.as_ptr(),
                true,
                source.shared_bytes,
            );
            mlx_sys::mlx_vector_string_free(inputs);
            mlx_sys::mlx_vector_string_free(output_names);
            let config = mlx_sys::mlx_fast_cuda_kernel_config_new();
            let made = Self { kernel, config };
            let threads = source.threads;
            let mut status =
                mlx_sys::mlx_fast_cuda_kernel_config_set_grid(
                    config,
                    source.blocks * threads,
                    1,
                    1,
                ) | mlx_sys::mlx_fast_cuda_kernel_config_set_thread_group(config, threads, 1, 1);
            for (_, shape, dtype) in outputs {
                status |= mlx_sys::mlx_fast_cuda_kernel_config_add_output_arg(
                    config,
                    shape.as_ptr(),
                    shape.len(),
                    dtype,
                );
            }
            match status {
                0 => Ok(made),
                status => Err(Exception::custom(format!("a CUDA kernel: status {status}"))),
            }
        }
    }

    /// Returns what the kernel makes of `inputs`.
    pub(crate) fn apply<const N: usize>(&self, inputs: [&Array; N]) -> MlxResult<Array> {
        let (inputs, stream) = (inputs.map(Array::as_ptr), Stream::thread_local_or_default());
        // SAFETY: the arrays and the stream outlive the call, which copies references to them; both
        // lists are freed here, and `result` is a place for an array.
        array("cuda_kernel", |result| unsafe {
            let inputs = mlx_sys::mlx_vector_array_new_data(inputs.as_ptr(), N);
            let mut outputs = mlx_sys::mlx_vector_array_new();
            let mut status = mlx_sys::mlx_fast_cuda_kernel_apply(
                &raw mut outputs,
                self.kernel,
                inputs,
                self.config,
                stream.as_ptr(),
            );
            if status == 0 {
                status = mlx_sys::mlx_vector_array_get(result, outputs, 0);
            }
            mlx_sys::mlx_vector_array_free(inputs);
            mlx_sys::mlx_vector_array_free(outputs);
            status
        })
    }
}

impl Drop for CudaKernel {
    fn drop(&mut self) {
        // SAFETY: both were made by `new` and are freed nowhere else.
        unsafe {
            mlx_sys::mlx_fast_cuda_kernel_config_free(self.config);
            mlx_sys::mlx_fast_cuda_kernel_free(self.kernel);
        }
    }
}
