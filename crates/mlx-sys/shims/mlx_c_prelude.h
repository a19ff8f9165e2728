// Included before every file of mlx-c on Linux; build/compile.rs does so.
#pragma once

#include <version>

#include "mlx/types/half_types.h"

// mlx-c's half.h knows half types on Arm with Apple's compiler settings only, and leaves out the
// functions for half-precision arrays elsewhere; mlx-rs calls them. This takes the place of that
// header on every architecture, with MLX's own types.
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
using mlx::core::bfloat16_t;
using mlx::core::float16_t;

// GCC has std::format since version 13. mlx-c uses it for messages whose placeholders are all
// "{}", so this stands in for older compilers.
#if !defined(__cpp_lib_format)
#include <sstream>
#include <string>
#include <string_view>

namespace std {

template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  auto put = [&](const auto& arg) {
    auto at = pattern.find("{}");
    out << pattern.substr(0, at) << arg;
    pattern.remove_prefix(at == string_view::npos ? pattern.size() : at + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}

} // namespace std
#endif
