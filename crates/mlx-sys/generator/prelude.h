// Included before the headers of mlx-c, in place of its half.h; see shims/mlx_c_prelude.h.
// mlx-rs wants what bindgen makes of Apple's headers: a newtype of two bytes, and a plain u16.
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef _Float16 float16_t;
typedef unsigned short bfloat16_t;
