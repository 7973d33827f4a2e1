// Rotary embedding and the write into the cache.  A thread has a pair or a value.  The work is
// bound by memory, and small.
#include "base/error.h"
#include "cuda/device/math.h"
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
    int64_t row_place;  // of the layer in rows that become codes
    int dim;
    bool narrow;  // to fp16
  };
  Part k, v;
  int64_t page_bytes;
  const BesidePage* beside;  // by page, where rows become codes
  BatchOnDevice batch;

  HRUN_HD void operator()() const {
    const int i = block_y() * kThreads + thread(), n_k = static_cast<int>(k.from.cols);
    if (i < n_k)
      put(k, i);
    else if (i - n_k < v.from.cols)
      put(v, i - n_k);
  }
  HRUN_HD void put(const Part& part, int i) const { put(part, i, part.from.row(block_x())[i]); }
  HRUN_HD void put(const Part& part, int i, float value) const {
    const int position = batch.positions[block_x()];
    const int32_t* const pages = batch.pages(batch.span_of_row[block_x()]);
    const int32_t number = pages[position / kPagePositions];
    uint8_t* const page = beside ? beside[number].rows + part.row_place
                                 : static_cast<uint8_t*>(part.to) + number * page_bytes;
    const int at =
        (i / part.dim * kPagePositions + position % kPagePositions) * part.dim + i % part.dim;
    if (part.narrow)
      reinterpret_cast<uint16_t*>(page)[at] = static_cast<uint16_t>(two_halves(value, 0));
    else
      reinterpret_cast<float*>(page)[at] = value;
  }
};

// A warp has a head of queries or keys of a token, or 256 of its values: norm and turn in the order
// and with the bits of the kernels that do one of them, and the write into the cache.
struct FinishHeads {
  static constexpr int kThreads = kThreadsPerBlock, kBlocks = 1;
  static constexpr const char* kName = "norms, turns and the write into the cache";
  static constexpr int kWarps = kThreads / kWarp, kPerLane = kMostHeadDim / kWarp;
  HeadsTask q, k;
  Append append;

  HRUN_HD void operator()() const {
    const int at = block_y() * kWarps + warp();
    if (at < q.n_heads) {
      finish(q, at, false);
    } else if (at < q.n_heads + k.n_heads) {
      finish(k, at - q.n_heads, true);
    } else {
      const int first = (at - q.n_heads - k.n_heads) * kMostHeadDim;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j)
        if (const int i = first + j * kWarp + lane(); i < append.v.from.cols)
          append.put(append.v, i);
    }
  }

  HRUN_HD void finish(const HeadsTask& task, int head, bool is_key) const {
    float* const values = task.x.row(block_x()) + static_cast<int64_t>(head) * task.dim;
    float v[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = j * kWarp + lane();
      v[j] = i < task.dim ? values[i] : 0.0f;
    }
    if (task.norm && task.norm_first) norm(task, v);
    if (task.turned) turn(task, v);
    if (task.norm && !task.norm_first) norm(task, v);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = j * kWarp + lane();
      if (i >= task.dim) continue;
      // Values may be part of the keys (latent attention): the part that did not change is not
      // written.
      const int from_turned = i - task.rope.first;
      if (task.norm || (from_turned >= 0 && from_turned < task.rope.n_rot)) values[i] = v[j];
      if (is_key) append.put(append.k, head * task.dim + i, v[j]);
    }
  }

  HRUN_HD void norm(const HeadsTask& task, float (&v)[kPerLane]) const {
    float sum = 0;  // of 32 columns after the other: the order of a block of threads
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) sum += warp_sum(fused_multiply_add(v[j], v[j], 0.0f));
    const float inverse = 1.0f / square_root(sum / static_cast<float>(task.dim) + task.eps);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = j * kWarp + lane();
      if (i < task.dim) v[j] = (v[j] * inverse) * task.norm[i];
    }
  }

  HRUN_HD void turn(const HeadsTask& task, float (&v)[kPerLane]) const {
    auto* const head = reinterpret_cast<float*>(shared()) + warp() * kMostHeadDim;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) head[j * kWarp + lane()] = v[j];
    sync_warp();
    const Rope& rope = task.rope;
    const int half = rope.n_rot / 2;
    const int64_t row = int64_t{append.batch.positions[block_x()]} * half;
    const bool interleaved = rope.style == RopeStyle::interleaved;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int i = j * kWarp + lane() - rope.first;
      if (i < 0 || i >= rope.n_rot) continue;
      const int pair = interleaved ? i / 2 : i % half;
      const bool is_low = interleaved ? i % 2 == 0 : i < half;
      const float a = head[rope.first + (interleaved ? 2 * pair : pair)],
                  b = head[rope.first + (interleaved ? 2 * pair + 1 : pair + half)];
      const float c = rope.cos[row + pair], s = rope.sin[row + pair];
      v[j] = is_low ? a * c - b * s : a * s + b * c;
    }
  }
};

Append append_kernel(const KVPages& cache, FloatView k, FloatView v, const BatchOnDevice& batch) {
  const auto part = [&](FloatView from, void* to, int64_t row_place, int dim, CacheType type) {
    if (from.cols != static_cast<int64_t>(cache.n_kv_heads) * dim)
      throw ArgumentError("kv_append: {} values for {} heads of {}", from.cols, cache.n_kv_heads,
                          dim);
    return Append::Part{from, to, row_place, dim, type != CacheType::f32};
  };
  return {part(k, cache.k, cache.coded.k_rows, cache.k_dim, cache.k_type),
          part(v, cache.v, cache.coded.v_rows, cache.v_dim, cache.v_type), cache.page_bytes,
          cache.coded.beside, batch};
}

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
  const Append kernel = append_kernel(cache, k, v, batch);
  if (k.rows > 0) gpu.launch(kernel, grid_of(k.rows, k.cols + v.cols));
}

void finish_heads(Gpu& gpu, const HeadsTask& q, const HeadsTask& k, const KVPages& cache,
                  FloatView v, const BatchOnDevice& batch) {
  if (k.x.rows == 0) return;
  const FinishHeads kernel{q, k, append_kernel(cache, k.x, v, batch)};
  const int64_t warps = q.n_heads + k.n_heads + (v.cols + kMostHeadDim - 1) / kMostHeadDim;
  gpu.launch(kernel,
             Grid{static_cast<int>(k.x.rows),
                  static_cast<int>((warps + FinishHeads::kWarps - 1) / FinishHeads::kWarps)},
             FinishHeads::kWarps * kMostHeadDim * sizeof(float));
}

}  // namespace hrun::gpu
