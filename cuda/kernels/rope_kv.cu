// Rotary embedding and the write into the cache: a pair or a value per thread, bound by memory and
// small.
#include "base/error.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {
namespace {

constexpr int kThreadsPerBlock = 128;

// Tokens along x, of which there may be many, the values of one along y.
Grid grid_of(int64_t n_tokens, int64_t values) {
  return {static_cast<int>(n_tokens),
          static_cast<int>((values + kThreadsPerBlock - 1) / kThreadsPerBlock)};
}

// Products and sums round one by one, as on the CPU: the same bits.
struct TurnPairs {
  static constexpr int kThreads = kThreadsPerBlock, kBlocks = 1;
  static constexpr const char* kName = "the rotary embedding";
  FloatView x;
  int head_dim, n_pairs, half, first_value;
  bool interleaved;
  const float* cos;
  const float* sin;
  const int32_t* positions;

  HRUN_HD void operator()() const {
    const int pair = block_y() * kThreads + thread();
    if (pair >= n_pairs) return;
    const int head = pair / half, i = pair % half;
    const int64_t at = int64_t{positions[block_x()]} * half + i;
    float* const values = x.row(block_x()) + static_cast<int64_t>(head) * head_dim + first_value;
    float& low = values[interleaved ? 2 * i : i];
    float& high = values[interleaved ? 2 * i + 1 : i + half];
    const float c = cos[at], s = sin[at], a = low, b = high;
    low = a * c - b * s;
    high = a * s + b * c;
  }
};

// The keys of a token, then its values.
struct Append {
  static constexpr int kThreads = kThreadsPerBlock, kBlocks = 1;
  static constexpr const char* kName = "the write into the cache";
  struct Part {
    FloatView from;
    void* to;
    int dim;
    bool narrow;  // to fp16
  };
  Part k, v;
  int64_t page_bytes;
  BatchOnDevice batch;

  HRUN_HD void operator()() const {
    const int i = block_y() * kThreads + thread(), n_k = static_cast<int>(k.from.cols);
    if (i < n_k)
      put(k, i);
    else if (i - n_k < v.from.cols)
      put(v, i - n_k);
  }
  HRUN_HD void put(const Part& part, int i) const {
    const float value = part.from.row(block_x())[i];
    const int position = batch.positions[block_x()];
    const int32_t* const pages = batch.pages(batch.span_of_row[block_x()]);
    auto* const page =
        static_cast<uint8_t*>(part.to) + pages[position / kPagePositions] * page_bytes;
    const int at =
        (i / part.dim * kPagePositions + position % kPagePositions) * part.dim + i % part.dim;
    if (part.narrow)
      reinterpret_cast<uint16_t*>(page)[at] = static_cast<uint16_t>(two_halves(value, 0));
    else
      reinterpret_cast<float*>(page)[at] = value;
  }
};

}  // namespace

void rope(Gpu& gpu, FloatView x, int n_heads, const Rope& rope, const int32_t* positions) {
  const int head_dim = n_heads > 0 ? static_cast<int>(x.cols / n_heads) : 0;
  if (n_heads <= 0 || x.cols % n_heads != 0 || rope.n_rot % 2 != 0 || rope.first < 0 ||
      rope.first + rope.n_rot > head_dim)
    throw ArgumentError("rope: {} values in {} heads, of which {} from {} on turn", x.cols, n_heads,
                        rope.n_rot, rope.first);
  if (x.rows == 0 || rope.n_rot == 0) return;
  const int half = rope.n_rot / 2, n_pairs = n_heads * half;
  const TurnPairs kernel{x,        head_dim,   n_pairs,
                         half,     rope.first, rope.style == RopeStyle::interleaved,
                         rope.cos, rope.sin,   positions};
  gpu.launch(kernel, grid_of(x.rows, n_pairs));
}

void kv_append(Gpu& gpu, const KVPages& cache, FloatView k, FloatView v,
               const BatchOnDevice& batch) {
  const auto part = [&](FloatView from, void* to, int dim, CacheType type) {
    if (from.cols != static_cast<int64_t>(cache.n_kv_heads) * dim)
      throw ArgumentError("kv_append: {} values for {} heads of {}", from.cols, cache.n_kv_heads,
                          dim);
    return Append::Part{from, to, dim, type == CacheType::f16};
  };
  const Append kernel{part(k, cache.k, cache.k_dim, cache.k_type),
                      part(v, cache.v, cache.v_dim, cache.v_type), cache.page_bytes, batch};
  if (k.rows > 0) gpu.launch(kernel, grid_of(k.rows, k.cols + v.cols));
}

}  // namespace hrun::gpu
