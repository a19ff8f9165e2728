//! A kernel of our own on CUDA, compiled when it is first used.

use std::ffi::CString;

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

impl CudaKernel {
    /// Returns the kernel `name` with the body `source` after the functions `header`, for arrays `inputs` (bf16 or u32, by name)
    /// and an output `y` of `shape`, run by `blocks` blocks of `threads` threads.
    pub(crate) fn new(
        name: &str,
        inputs: &[&str],
        (header, source): (&str, &str),
        shape: &[i32],
        blocks: i32,
        threads: i32,
    ) -> MlxResult<Self> {
        let text = |s: &str| CString::new(s).map_err(|e| Exception::custom(e.to_string()));
        let (name, source, header, output) =
            (text(name)?, text(source)?, text(header)?, text("y")?);
        let inputs = inputs.iter().map(|s| text(s)).collect::<MlxResult<Vec<_>>>()?;
        // SAFETY: every pointer is to a value that outlives the call it is given to, MLX copies texts
        // and shapes, and the two lists of texts are freed once. What is kept is freed by `drop`.
        unsafe {
            let names = mlx_sys::mlx_vector_string_new();
            for input in &inputs {
                mlx_sys::mlx_vector_string_append_value(names, input.as_ptr());
            }
            let outputs = mlx_sys::mlx_vector_string_new_value(output.as_ptr());
            let kernel = mlx_sys::mlx_fast_cuda_kernel_new(
                name.as_ptr(),
                names,
                outputs,
                source.as_ptr(),
                header.as_ptr(),
                true,
                0,
            );
            mlx_sys::mlx_vector_string_free(names);
            mlx_sys::mlx_vector_string_free(outputs);
            let config = mlx_sys::mlx_fast_cuda_kernel_config_new();
            let made = Self { kernel, config };
            let set =
                mlx_sys::mlx_fast_cuda_kernel_config_add_output_arg(
                    config,
                    shape.as_ptr(),
                    shape.len(),
                    mlx_sys::mlx_dtype__MLX_BFLOAT16,
                ) | mlx_sys::mlx_fast_cuda_kernel_config_set_grid(config, blocks * threads, 1, 1)
                    | mlx_sys::mlx_fast_cuda_kernel_config_set_thread_group(config, threads, 1, 1);
            match set {
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
