#!/bin/sh
# Generation beside mlx-vlm on a machine with an NVIDIA GPU, in one call:
#
#   benches/generate/cuda.sh GENERATE [FOLDER]
#
# GENERATE is the program that `cargo build --release -p benches --bin generate` makes; it can have been
# built elsewhere. `python3` must have mlx-vlm 0.7.10 with MLX 0.32.2 (mlx, mlx-cuda-13), and
# LD_LIBRARY_PATH must begin with the folder of that MLX's libmlx.so, followed by those of NVIDIA's
# libraries, so that both sides run on the same. The checkpoints, 13 GB, go to FOLDER (/tmp/generate).
set -eu
generate=$1
folder=${2:-/tmp/generate}
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
for geometry in 7b-4bit 3b; do
    [ -d "$folder/$geometry" ] || "$generate" make $geometry "$folder/$geometry"
    "$generate" run "$folder/$geometry" --peers --python "$(command -v python3)" --rounds 2
done
