//! A kernel of our own on CUDA, compiled when it is first used, or before.

#[cfg(target_os = "linux")]
use std::{cell::RefCell, sync::mpsc::Receiver};
use std::{
    ffi::CString,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use mlx_rs::{
    Array, Dtype, Stream,
    error::{Exception, Result as MlxResult},
};

#[cfg(target_os = "linux")]
use super::cuda_compile::{PRELUDE, Text, start};
use super::{array, cuda_device};

/// A kernel with one output of bf16.
#[derive(Debug)]
pub(crate) struct CudaKernel {
    kernel: mlx_sys::mlx_fast_cuda_kernel,
    config: mlx_sys::mlx_fast_cuda_kernel_config,
    #[cfg(target_os = "linux")]
    ahead: RefCell<Ahead>,
}

/// How far compiling ahead is.
#[cfg(target_os = "linux")]
#[derive(Debug)]
enum Ahead {
    No(Text),
    Started(Receiver<()>),
    Done,
}

/// What a kernel is made of.
#[derive(Debug)]
pub(crate) struct CudaSource<'a> {
    pub(crate) name: &'a str,
    /// The arrays that it reads, which have an axis if its text asks for their shape.
    pub(crate) inputs: &'a [(&'a str, Dtype)],
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
        let mut header = header.collect::<String>();
        if let Some(device) = cuda_device() {
            // What was compiled for one device is not taken for another.
            header += &format!("// sm_{}{}\n", device.major, device.minor);
        }
        // MLX compiles a name once, whatever its text.
        let mut hasher = DefaultHasher::new();
        (&header, source.body).hash(&mut hasher);
        let name = format!("{}_{:016x}", source.name, hasher.finish());
        #[cfg(target_os = "linux")]
        let ahead = RefCell::new(Ahead::No(source.text(&name, &header)));
        let name = text(&name)?;
        let (header, body) = (text(&header)?, text(source.body)?);
        let inputs = texts(&source.inputs.iter().map(|input| input.0).collect::<Vec<_>>())?;
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
            let made = Self {
                kernel,
                config,
                #[cfg(target_os = "linux")]
                ahead,
            };
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

    /// Starts compiling, which [`apply`](Self::apply) waits for.
    pub(crate) fn prepare(&self) {
        #[cfg(target_os = "linux")]
        self.ahead.replace_with(|ahead| match std::mem::replace(ahead, Ahead::Done) {
            Ahead::No(text) => Ahead::Started(start(text)),
            other => other,
        });
    }

    /// Returns what the kernel makes of `inputs`.
    pub(crate) fn apply(&self, inputs: &[&Array]) -> MlxResult<Array> {
        #[cfg(target_os = "linux")]
        if let Ahead::Started(wait) = self.ahead.replace(Ahead::Done) {
            // Nothing is ever sent.
            let _ = wait.recv();
        }
        let inputs: Vec<_> = inputs.iter().map(|input| input.as_ptr()).collect();
        let stream = Stream::thread_local_or_default();
        // SAFETY: the arrays and the stream outlive the call, which copies references to them; both
        // lists are freed here, and `result` is a place for an array.
        array("cuda_kernel", |result| unsafe {
            let inputs = mlx_sys::mlx_vector_array_new_data(inputs.as_ptr(), inputs.len());
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

#[cfg(target_os = "linux")]
impl CudaSource<'_> {
    /// Returns what MLX makes of a kernel `name`, and the same for us.
    fn text(&self, name: &str, header: &str) -> Text {
        let name = format!("custom_kernel_{name}");
        let mut arguments = Vec::new();
        for (input, dtype) in self.inputs {
            let kind = match dtype {
                Dtype::Bfloat16 => "__nv_bfloat16",
                Dtype::Int32 => "int32_t",
                Dtype::Uint32 => "uint32_t",
                _ => "float",
            };
            arguments.push(format!("const {kind}* {input}"));
            for (kind, what) in [("Shape", "shape"), ("Strides", "strides"), ("int", "ndim")] {
                if self.body.contains(&format!("{input}_{what}")) {
                    arguments.push(format!("const __grid_constant__ {kind} {input}_{what}"));
                }
            }
        }
        arguments.push("__nv_bfloat16* y".to_owned());
        if self.scratch > 0 {
            arguments.push("float* parts".to_owned());
        }
        let arguments = arguments.join(",\n    ");
        let body = self.body;
        Text {
            of_mlx: format!(
                "\n#include \"mlx/backend/cuda/device/utils.cuh\"\n\n#include <cooperative_groups.h>\n\n\
                 {header}namespace mlx::core::cu {{\n\nnamespace cg = cooperative_groups;\n\n\
                 __global__ void {name}(\n    {arguments}) {{\n{body}\n}}\n\n}} // namespace mlx::core::cu\n"
            ),
            ours: format!(
                "{PRELUDE}{header}extern \"C\" __global__ void {name}(\n    {arguments}) {{\n{body}\n}}\n"
            ),
            name,
        }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// What MLX 0.32.2 was seen to compile; it finds what was compiled ahead by a hash of this.
    #[test]
    fn the_text_is_that_of_mlx() {
        let source = CudaSource {
            name: "twice",
            inputs: &[("x", Dtype::Bfloat16), ("by", Dtype::Int32)],
            header: &[],
            body: "y[0] = x[x_shape[0] - 1];",
            shape: &[1],
            scratch: 4,
            blocks: 1,
            threads: 1,
            shared_bytes: 0,
        };
        let text = source.text("twice_1", "// nothing\n");
        assert_eq!(text.name, "custom_kernel_twice_1");
        let expected = "
#include \"mlx/backend/cuda/device/utils.cuh\"

#include <cooperative_groups.h>

// nothing
namespace mlx::core::cu {

namespace cg = cooperative_groups;

__global__ void custom_kernel_twice_1(
    const __nv_bfloat16* x,
    const __grid_constant__ Shape x_shape,
    const int32_t* by,
    __nv_bfloat16* y,
    float* parts) {
y[0] = x[x_shape[0] - 1];
}

} // namespace mlx::core::cu
";
        assert_eq!(text.of_mlx, expected);
        assert!(text.ours.contains("extern \"C\" __global__ void custom_kernel_twice_1(\n"));
    }
}
