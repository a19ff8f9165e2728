// The bindings that the build script of the published crate has written.
include!(env!("MLX_SYS_BINDINGS"));
