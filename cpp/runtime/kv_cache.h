// Keys and values of every layer, in one buffer of the backend.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace hrun {

class KVCache {
 public:
  // Throws OutOfMemoryError with the need, ArgumentError for a format that cannot hold keys or
  // values.
  KVCache(const Model& model, int64_t n_ctx, std::string_view k_format, std::string_view v_format);

  std::span<const KVLayer> layers() const { return layers_; }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  size_t bytes_ = 0;
  std::vector<KVLayer> layers_;
};

// Formats that a cache can have, for choices and messages.
std::span<const std::string_view> kv_format_names();

}  // namespace hrun
