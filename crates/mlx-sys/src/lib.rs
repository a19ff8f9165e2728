//! MLX bindings for mlx-rs that also build on Linux
