#include "cuda/kernels/matmul_fast.h"

#include <algorithm>

#include "cuda/device/packed.h"

namespace hrun::gpu {
namespace {

const FastMatmul* find(FormatId format) {
  for (const auto find_in_group : {find_rtq_matmul, find_group_matmul, find_k_quant_matmul})
    if (const FastMatmul* const found = find_in_group(format)) return found;
  return nullptr;
}

}  // namespace

size_t packed_bytes(FormatId format, int64_t rows, int64_t cols) {
  const FastMatmul* const fast = find(format);
  if (!fast) return 0;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows,
                chunks = (cols + kChunkColumns - 1) / kChunkColumns;
  return static_cast<size_t>(tiles * chunks) * static_cast<size_t>(fast->chunk_bytes);
}

void pack(Gpu& gpu, const uint8_t* from, int64_t first, int64_t n_rows, const PackedMatrix& to) {
  find(to.format)->pack(gpu, from, first, n_rows, to);
}

bool can_end(const QuantizedRows& x, int64_t rows) {
  // most_gated_tiles(); a counter for every 256 rows.
  return x.n_tokens <= 2 && rows <= static_cast<int64_t>(kEndCounters) * kChunkColumns;
}

void matmul(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
            const MatmulEnd* end) {
  for (size_t done = 0; done < parts.size() && x.n_tokens > 0; done += kPackedProducts)
    find(parts[0].w.format)
        ->matmul(gpu, parts.subspan(done, std::min(kPackedProducts, parts.size() - done)), x, end);
}

void matmul_slices(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                   const SliceTask& task) {
  for (size_t done = 0; done < parts.size(); done += kPackedProducts)
    find(parts[0].w.format)
        ->matmul_slices(gpu, parts.subspan(done, std::min(kPackedProducts, parts.size() - done)), x,
                        task);
}

}  // namespace hrun::gpu
