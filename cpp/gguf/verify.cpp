#include "gguf/verify.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "formats/list.h"

namespace hrun::gguf {

void verify(const File& file, const TensorInfo& tensor) {
  const TensorView view = file.view(tensor);
  const FormatInfo* info = find_format(view.format);
  if (!info || view.rows == 0) return;
  // In the format's own basis a bad scale stays within its block.
  std::vector<float> row(static_cast<size_t>(view.cols));
  for (int64_t r = 0; r < view.rows; ++r) {
    info->decode_row_own_basis(view.data + static_cast<size_t>(r) * view.row_bytes, view.cols,
                               row.data());
    for (int64_t c = 0; c < view.cols; ++c)
      if (const float value = row[static_cast<size_t>(c)]; !std::isfinite(value))
        file.fail(
            "tensor '{}': value {} of row {} is {} (block {} of the row, format {}), must be "
            "finite",
            printable(tensor.name), c, r, value, c / info->block_values, info->name);
  }
  file.check_readable();
}

}  // namespace hrun::gguf
