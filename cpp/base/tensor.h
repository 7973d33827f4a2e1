// Non-owning views: a tensor as a file holds it, a matrix of floats, a checked sum of sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hrun {

// A GGML type id, or one of ours at kOwnFormats + n.
using FormatId = uint32_t;
inline constexpr FormatId kOwnFormats = 0x48520000u;  // "HR"

// A matrix whose rows are contiguous runs of blocks of one format.
struct TensorView {
  FormatId format = 0;
  int64_t rows = 0;  // 1 for a vector
  int64_t cols = 0;  // values per row
  size_t row_bytes = 0;
  const uint8_t* data = nullptr;
  std::string_view name;  // for messages
};

// float32 [rows, cols]; row r starts at data + r * stride.  On a device backend `data` is a device
// address.
struct FloatView {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  constexpr float* row(int64_t r) const {
    return data + r * stride;
  }  // constexpr: also in device code
};

}  // namespace hrun
