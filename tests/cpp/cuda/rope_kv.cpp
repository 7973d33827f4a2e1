// Rotary embedding: the CPU's bits.  The write into the cache: [kv_head][position][dim].  Both at
// positions read on the device.
#include <cstring>

#include "backend/backend.h"
#include "cases.h"
#include "cpu/backend/cpu_backend.h"
#include "paged.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

constexpr int64_t kPositions = 1100;

struct RopeCase {
  int n_heads, head_dim, n_rot, first;
  RopeStyle style;
  int64_t n_tokens, position;
};

void check_rope(Gpu& gpu, Backend& cpu, const RopeCase& c, uint64_t seed) {
  Random random(seed);
  const int64_t cols = c.n_heads * c.head_dim, stride = cols + 8;
  std::vector<float> x = random.normals(static_cast<size_t>(c.n_tokens * stride));
  const std::vector<float> cos = random.normals(static_cast<size_t>(kPositions * c.n_rot / 2)),
                           sin = random.normals(cos.size());
  const OnDevice<float> on(gpu, x), cos_on(gpu, cos), sin_on(gpu, sin);
  const OnDevice<int32_t> positions(gpu, positions_from(c.position, c.n_tokens));
  BatchRows rows;
  rows.add_positions(c.n_tokens, c.position, {});
  gpu::rope(gpu, {on.get(), c.n_tokens, cols, stride}, c.n_heads,
            {c.style, c.n_rot, cos_on.get(), sin_on.get(), c.first}, positions.get());
  cpu.rope({x.data(), c.n_tokens, cols, stride}, c.n_heads,
           {c.style, c.n_rot, cos.data(), sin.data(), c.first}, rows.batch());
  expect(on.read() == x, "rope: {} heads of {}, {} turned from {}, {} tokens at {}", c.n_heads,
         c.head_dim, c.n_rot, c.first, c.n_tokens, c.position);
}

void check_append(Gpu& gpu, CacheType k_type, CacheType v_type, int n_kv_heads, int k_dim,
                  int v_dim, int64_t n_tokens, int64_t position, uint64_t seed) {
  Random random(seed);
  constexpr int64_t kCapacity = 150;
  const int64_t k_cols = n_kv_heads * k_dim, v_cols = n_kv_heads * v_dim,
                stride = k_cols + v_cols + 4;
  std::vector<float> x = random.normals(static_cast<size_t>(n_tokens * stride));
  for (size_t i = 0; i < x.size(); i += 7)
    x[i] *= i % 2 ? 1e6f : 1e-7f;  // beyond fp16 and subnormal in it
  std::vector<uint8_t> k(static_cast<size_t>(k_cols * kCapacity) * value_bytes(k_type), 0xfe),
      v(static_cast<size_t>(v_cols * kCapacity) * value_bytes(v_type), 0xfe);
  const OnDevice<float> on(gpu, x);
  const PagedCache cache(gpu, k_type, v_type, n_kv_heads, k_dim, v_dim, kCapacity, k, v, seed);
  const SpansOnDevice spans(gpu, {{n_tokens, position}}, cache.pages());
  gpu::kv_append(gpu, cache.layer, {on.get(), n_tokens, k_cols, stride},
                 {on.get() + k_cols, n_tokens, v_cols, stride}, spans.batch);
  const auto put = [&](std::vector<uint8_t>& to, CacheType type, int dim, int64_t first_column) {
    for (int64_t t = 0; t < n_tokens; ++t)
      for (int64_t i = 0; i < n_kv_heads * dim; ++i) {
        const float value = x[static_cast<size_t>(t * stride + first_column + i)];
        const uint16_t half = fp32_to_fp16(value);
        const auto at = static_cast<size_t>((i / dim * kCapacity + position + t) * dim + i % dim);
        if (type == CacheType::f16)
          memcpy(&to[2 * at], &half, 2);
        else
          memcpy(&to[4 * at], &value, 4);
      }
  };
  put(k, k_type, k_dim, 0);
  put(v, v_type, v_dim, k_cols);
  expect(cache.keys() == k && cache.values() == v,
         "kv_append: {} heads of {} and {}, {} tokens at {}", n_kv_heads, k_dim, v_dim, n_tokens,
         position);
}

// A recorded graph at another position.
void check_replay(Gpu& gpu, Backend& cpu) {
  Random random(5);
  std::vector<float> x = random.normals(64);
  const std::vector<float> cos = random.normals(kPositions * 16),
                           sin = random.normals(kPositions * 16);
  const OnDevice<float> on(gpu, x), cos_on(gpu, cos), sin_on(gpu, sin);
  const OnDevice<int32_t> at(gpu, std::vector<int32_t>{0});
  gpu.begin_capture();
  gpu::rope(gpu, {on.get(), 1, 64, 64}, 2, {RopeStyle::halves, 32, cos_on.get(), sin_on.get()},
            at.get());
  const auto graph = gpu.end_capture();
  for (const int32_t position : {1000, 63}) {
    gpu.write(at.get(), &position, sizeof position);
    gpu.run(*graph);
    BatchRows rows;
    rows.add_positions(1, position, {});
    cpu.rope({x.data(), 1, 64, 64}, 2, {RopeStyle::halves, 32, cos.data(), sin.data()},
             rows.batch());
    expect(on.read() == x, "rope, replayed at {}", position);
  }
}

}  // namespace

int main() {
  Gpu gpu(0);
  CpuBackend cpu({.device = "cpu", .n_threads = 1});
  uint64_t seed = 1;
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::halves})
    for (const int64_t position : {0, 1, 63, 64, 65, 127, 128, 129, 1000})
      for (const RopeCase& c : {RopeCase{1, 64, 64, 0, style, 1, position},
                                {3, 80, 32, 0, style, 5, position},
                                {2, 192, 64, 128, style, 2, position},
                                {9, 34, 30, 2, style, 17, position}})
        check_rope(gpu, cpu, c, seed++);
  for (const CacheType k : {CacheType::f16, CacheType::f32})
    for (const CacheType v : {CacheType::f16, CacheType::f32})
      for (const int64_t position : {0, 1, 63, 127}) {
        check_append(gpu, k, v, 3, 64, 64, 1, position, seed++);
        check_append(gpu, k, v, 2, 34, 50, 17, position, seed++);
        check_append(gpu, k, v, 1, 576, 512, 2, position, seed++);
      }
  check_replay(gpu, cpu);
  return failures == 0 ? 0 : 1;
}
