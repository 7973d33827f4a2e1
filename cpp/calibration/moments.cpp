#include "calibration/moments.h"

#include <algorithm>
#include <cmath>

#include "base/cpu_features.h"
#include "base/error.h"
#include "formats/rotation.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call

namespace hrun {
namespace {

constexpr int kTileRows = 4, kPanelCols = 32;

// The compiler keeps a vector in registers only where one instruction takes it whole, so each tier
// has its own.
typedef float Floats4 __attribute__((vector_size(16)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats16 __attribute__((vector_size(64)));

// Columns of all tokens lie side by side in panels, [tokens][kPanelCols], so that tokens are not a
// power of two apart, where their lines would share a few places of the caches.
//
// sums[i * width + j] += sum_t left[t][i] right[t][j] for kTileRows columns i of one panel and all
// columns j of another, two vectors of them at a time.
template <class Floats>
[[gnu::always_inline]] inline void tile_body(const float* left, const float* right,
                                             int64_t n_tokens, float* sums, int64_t width) {
  constexpr int kLane = sizeof(Floats) / sizeof(float), kVectors = 2;
  static_assert(kPanelCols % (kVectors * kLane) == 0);
  for (int first = 0; first < kPanelCols; first += kVectors * kLane) {
    Floats acc[kTileRows][kVectors] = {};
    for (int64_t t = 0; t < n_tokens; ++t) {
      const float* const rows = left + t * kPanelCols;
      Floats cols[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
        __builtin_memcpy(&cols[v], right + t * kPanelCols + first + v * kLane, sizeof cols[v]);
#pragma GCC unroll 4
      for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) acc[i][v] += cols[v] * rows[i];
    }
    for (int i = 0; i < kTileRows; ++i)
      for (int v = 0; v < kVectors; ++v) {
        float* at = sums + i * width + first + v * kLane;
        Floats old;
        __builtin_memcpy(&old, at, sizeof old);
        old += acc[i][v];
        __builtin_memcpy(at, &old, sizeof old);
      }
  }
}

using Tile = void (*)(const float*, const float*, int64_t, float*, int64_t);

void tile_baseline(const float* left, const float* right, int64_t n, float* sums, int64_t width) {
  tile_body<Floats4>(left, right, n, sums, width);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void tile_avx2(const float* left, const float* right, int64_t n,
                                               float* sums, int64_t width) {
  tile_body<Floats8>(left, right, n, sums, width);
}
__attribute__((target("avx512f,prefer-vector-width=512"))) void tile_avx512(const float* left,
                                                                            const float* right,
                                                                            int64_t n, float* sums,
                                                                            int64_t width) {
  tile_body<Floats16>(left, right, n, sums, width);
}
#endif

Tile pick_tile() {
#if defined(__x86_64__)
  if (cpu_may_use("avx512f")) return tile_avx512;
  if (cpu_may_use("avx2")) return tile_avx2;
#endif
  return tile_baseline;
}

}  // namespace

MomentCollector::MomentCollector(std::shared_ptr<const Model> model, int64_t block_width,
                                 int n_threads)
    : model_(std::move(model)), block_width_(block_width), pool_(n_threads) {
  if (block_width < 0 || block_width % kPanelCols != 0)
    throw ArgumentError("blocks of {} columns: must be a multiple of {}, or 0 for the whole width",
                        block_width, kPanelCols);
  const ModelSpec& spec = model_->spec();
  const auto add_name = [&](const DeviceTensor* weights, const gguf::TensorInfo* info) {
    if (weights && info) names_.emplace(weights, std::string(info->name));
  };
  const auto add_tensor = [&](const Weight& slices, const gguf::TensorInfo* info) {
    if (slices.empty()) return;
    add_name(slices.front().get(), info);
    if (slices.size() > 1 && info)
      for (const auto& slice : slices) slices_.emplace(slice.get(), &slices);
  };
  for (size_t r = 0; r < static_cast<size_t>(Role::count); ++r) {
    const auto role = static_cast<Role>(r);
    add_tensor(model_->slices(role), spec.globals[r]);
    for (int64_t l = 0; l < model_->params().n_layers; ++l)
      add_tensor(model_->slices(l, role), spec.layers[static_cast<size_t>(l)][r]);
  }
  // Tensors that are taken apart when they are loaded are known by the slice that is observed.
  for (int64_t l = 0; l < model_->params().n_layers; ++l)
    for (const auto& [whole, part] : {std::pair(Role::experts_gate_up, Role::experts_gate),
                                      std::pair(Role::attn_kv_b, Role::attn_v_b)})
      add_name(model_->weight(l, part), spec.layer(l, whole));
}

FloatView MomentCollector::plain(Backend& backend, const MatmulInput& input) {
  const FloatView& x = input.x;
  if (!input.norm && !input.gate.data) return x;
  const size_t bytes = static_cast<size_t>(x.rows * x.cols) * sizeof(float);
  if (!made_ || made_->bytes < bytes || made_on_ != &backend)
    made_ = backend.allocate(bytes, "the input of a matmul");
  made_on_ = &backend;
  const FloatView out{static_cast<float*>(made_->data), x.rows, x.cols, x.cols};
  if (input.norm)
    backend.rms_norm(x, *input.norm, input.eps, out);
  else
    backend.silu_mul(input.gate, x, out);
  return out;
}

void MomentCollector::matmul_input(Backend& backend, std::span<const MatmulTarget> targets,
                                   const MatmulInput& from) {
  const DeviceTensor* first = targets.front().weights;
  auto [at, is_new] = index_.try_emplace(first, inputs_.size());
  if (is_new) {
    new_input(from.x.cols);
    for (const MatmulTarget& target : targets)
      if (const auto name = names_.find(target.weights); name != names_.end())
        inputs_.back().tensors.push_back(name->second);
  }
  collect(backend, inputs_[at->second], from);
}

// All slices become known with the first, whichever the text needs first.
void MomentCollector::slice_input(Backend& backend, const DeviceTensor& slice,
                                  const MatmulInput& from) {
  if (const auto all = slices_.find(&slice);
      all != slices_.end() && !slice_index_.contains(&slice)) {
    const Weight& slices = *all->second;
    const std::string& name = names_.at(slices.front().get());
    for (size_t i = 0; i < slices.size(); ++i) {
      slice_index_.emplace(slices[i].get(), new_input(from.x.cols));
      inputs_.back().tensors.push_back(message("{}[{}]", name, i));
    }
  }
  if (const auto at = slice_index_.find(&slice); at != slice_index_.end())
    collect(backend, inputs_[at->second], from);
}

size_t MomentCollector::new_input(int64_t cols) {
  MomentInput input;
  input.cols = cols;
  input.width = block_width_ == 0 ? cols : std::min(block_width_, cols);
  inputs_.push_back(std::move(input));
  return inputs_.size() - 1;
}

void MomentCollector::collect(Backend& backend, MomentInput& input, const MatmulInput& from) {
  if (input.sums.empty() || input.cols % 32 != 0) return;
  const FloatView x = plain(backend, from);
  x_.resize(static_cast<size_t>(x.rows * x.cols));
  for (int64_t t = 0; t < x.rows; ++t)
    backend.read(x.row(t), {reinterpret_cast<uint8_t*>(x_.data() + t * x.cols),
                            static_cast<size_t>(x.cols) * sizeof(float)});
  add(input, x.rows);
}

void MomentCollector::add(MomentInput& input, int64_t n_tokens) {
  static const Tile kTile = pick_tile();
  const int64_t cols = input.cols, width = input.width;
  // Two tokens of each pass, not of its start, where the first position is unlike all others.
  if (static_cast<int64_t>(input.sample.size()) < kSampleTokens * cols) {
    const int64_t first = n_tokens / 2, last = std::min(n_tokens, first + 2);
    input.sample.insert(input.sample.end(), x_.begin() + first * cols, x_.begin() + last * cols);
  }
  pool_.parallel(cols, 0, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = 0; t < n_tokens; ++t)
      for (int64_t c = begin; c < end; ++c) {
        const double v = x_[static_cast<size_t>(t * cols + c)];
        input.power[static_cast<size_t>(c)] += v * v;
        input.peak[static_cast<size_t>(c)] =
            std::max(input.peak[static_cast<size_t>(c)], std::fabs(v));
      }
  });
  panels_.resize(x_.size());
  pool_.parallel(n_tokens, 0, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float* const row = x_.data() + t * cols;
      for (int64_t c = 0; c < cols; c += kRotationBlock)
        rotate_block(row + c, c, static_cast<int>(std::min<int64_t>(kRotationBlock, cols - c)),
                     true);
      for (int64_t c = 0; c < cols; c += kPanelCols)
        std::copy_n(row + c, kPanelCols, panels_.data() + c * n_tokens + t * kPanelCols);
    }
  });
  // Strips of the lower triangle of each group, up to the tiles that hold the diagonal.
  pool_.parallel(cols / kPanelCols, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * kPanelCols, group = first / width, start = group * width;
      float* const sums = input.sums.data() + group * width * width + (first - start) * width;
      for (int64_t j = 0; j <= first - start; j += kPanelCols)
        for (int64_t i = 0; i < kPanelCols; i += kTileRows)
          kTile(panels_.data() + first * n_tokens + i, panels_.data() + (start + j) * n_tokens,
                n_tokens, sums + i * width + j, width);
    }
  });
  input.n_tokens += n_tokens;
}

void MomentCollector::select(std::span<const int64_t> indices, std::span<const int64_t> widths) {
  for (MomentInput& input : inputs_) {
    input.sums = {};
    input.n_tokens = 0;
  }
  for (size_t i = 0; i < indices.size(); ++i) {
    if (indices[i] < 0 || indices[i] >= static_cast<int64_t>(inputs_.size()))
      throw ArgumentError("there is no input {}; {} are known", indices[i], inputs_.size());
    MomentInput& input = inputs_[static_cast<size_t>(indices[i])];
    const int64_t width = widths[i] == 0 ? input.cols : std::min(widths[i], input.cols);
    if (width < 0 || width % kPanelCols != 0)
      throw ArgumentError(
          "blocks of {} columns: must be a multiple of {}, or 0 for the whole width", widths[i],
          kPanelCols);
    input.width = width;
    input.sums.assign(input.bytes() / sizeof(float), 0.0f);
    input.sample.clear();
    input.power.assign(static_cast<size_t>(input.cols), 0.0);
    input.peak.assign(static_cast<size_t>(input.cols), 0.0);
  }
}

}  // namespace hrun
