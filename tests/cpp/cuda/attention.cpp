// Attention on the device against sums in double and against the CPU backend.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "backend/backend.h"
#include "cases.h"
#include "cpu/backend/cpu_backend.h"
#include "formats/list.h"
#include "paged.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

enum class Values { normal, large_scores, all_equal, one_hot, tiny, wide };

struct Case {
  CacheType k_type = CacheType::f16, v_type = CacheType::f16;
  int n_heads, n_kv_heads, k_dim, v_dim;
  int64_t n_tokens, position;
  int64_t window = 0;
  float soft_cap = 0;
  bool sinks = false;
  Values values = Values::normal;
  int64_t bound = 0;   // extra positions that the launch allows for
  bool cuts = false;   // also cut after some rows
  bool causal = true;  // false: position is 0
};

std::string describe(const Case& c) {
  return message(
      "{}/{} heads of {}/{}, {} tokens at {}, window {}, cap {}, sinks {}, values {}, formats "
      "{}/{}, bound +{}, causal {}",
      c.n_heads, c.n_kv_heads, c.k_dim, c.v_dim, c.n_tokens, c.position, c.window, c.soft_cap,
      c.sinks, static_cast<int>(c.values), static_cast<int>(c.k_type), static_cast<int>(c.v_type),
      c.bound, c.causal);
}

float rounded(CacheType type, float v) {
  return type == CacheType::f16 ? fp16_to_fp32(fp32_to_fp16(v)) : v;
}

struct Worst {
  double oracle = 0, cpu = 0;
};

// The largest difference to `want`, relative to the largest value of the head.
double difference(const std::vector<float>& got, const std::vector<double>& want, size_t dim) {
  double worst = 0;
  for (size_t at = 0; at < want.size(); at += dim) {
    double size = 0, off = 0;
    for (size_t i = at; i < at + dim; ++i) {
      size = std::max(size, std::fabs(want[i]));
      off = std::max(off, std::isnan(got[i]) ? HUGE_VAL : std::fabs(got[i] - want[i]));
    }
    worst = std::max(worst, off / std::max(size, 1e-30));
  }
  return worst;
}

Worst run(Gpu& gpu, Backend& cpu, const Case& c, uint64_t seed, double tolerance) {
  Random random(seed);
  const int64_t end = c.position + c.n_tokens, capacity = end + random.below(70);
  const int group = c.n_heads / c.n_kv_heads;
  const int64_t q_cols = c.n_heads * c.k_dim, o_cols = c.n_heads * c.v_dim, q_stride = q_cols + 4,
                o_stride = o_cols + 12;
  std::vector<float> q = random.normals(static_cast<size_t>(c.n_tokens * q_stride));
  std::vector<float> k = random.normals(static_cast<size_t>(c.n_kv_heads * capacity * c.k_dim)),
                     v = random.normals(static_cast<size_t>(c.n_kv_heads * capacity * c.v_dim));
  float scale = 1 / std::sqrt(static_cast<float>(c.k_dim));
  switch (c.values) {
    case Values::normal:
      break;
    case Values::large_scores:
      for (float& x : q) x *= 40;
      break;
    case Values::all_equal:
      std::fill(k.begin(), k.end(), 0.5f);
      break;
    case Values::one_hot:
      for (size_t i = 0; i < k.size(); ++i)
        k[i] = i / static_cast<size_t>(c.k_dim) % 37 == 5 ? 60 * k[i] : 0;
      break;
    case Values::tiny:
      for (float& x : q) x *= 1e-20f;
      scale *= 1e20f;
      break;
    case Values::wide:  // values over many powers of two, in each of the three
      for (float& x : q) x *= std::exp2(static_cast<float>(random.below(24) - 16));
      for (float& x : k) x *= std::exp2(static_cast<float>(random.below(12) - 8));
      for (float& x : v) x *= std::exp2(static_cast<float>(random.below(20) - 10));
      scale *= 0.1f;
      break;
  }
  for (int h = 0; h < c.n_kv_heads; ++h) {
    for (int64_t i = (h * capacity + end) * c.k_dim; i < (h + 1) * capacity * c.k_dim; ++i)
      k[static_cast<size_t>(i)] = std::nanf("");
    for (int64_t i = (h * capacity + end) * c.v_dim; i < (h + 1) * capacity * c.v_dim; ++i)
      v[static_cast<size_t>(i)] = std::nanf("");
  }
  for (float& x : k) x = rounded(c.k_type, x);
  for (float& x : v) x = rounded(c.v_type, x);
  std::vector<float> sinks = random.normals(static_cast<size_t>(c.n_heads), 3);
  if (c.n_heads > 1) sinks[1] = -HUGE_VALF;

  std::vector<double> want(static_cast<size_t>(c.n_tokens * o_cols));
  std::vector<double> scores(static_cast<size_t>(end));
  for (int64_t t = 0; t < c.n_tokens; ++t)
    for (int h = 0; h < c.n_heads; ++h) {
      const int64_t at = c.position + t,
                    after = c.causal       ? 0
                            : c.window > 0 ? c.window / 2
                                           : end,
                    before = c.causal ? c.window - 1 : c.window / 2,
                    last = std::min(at + after, end - 1),
                    begin = c.window > 0 ? std::max<int64_t>(0, at - before) : 0,
                    plane = h / group * capacity;
      double top = c.sinks ? sinks[static_cast<size_t>(h)] : -HUGE_VAL;
      for (int64_t p = begin; p <= last; ++p) {
        double dot = 0;
        for (int i = 0; i < c.k_dim; ++i)
          dot += static_cast<double>(q[static_cast<size_t>(t * q_stride + h * c.k_dim + i)]) *
                 k[static_cast<size_t>((plane + p) * c.k_dim + i)];
        dot *= scale;
        if (c.soft_cap != 0) dot = c.soft_cap * std::tanh(dot / c.soft_cap);
        scores[static_cast<size_t>(p)] = dot;
        top = std::max(top, dot);
      }
      double sum = c.sinks ? std::exp(sinks[static_cast<size_t>(h)] - top) : 0;
      double* const out = &want[static_cast<size_t>(t * o_cols + h * c.v_dim)];
      for (int64_t p = begin; p <= last; ++p) {
        const double e = std::exp(scores[static_cast<size_t>(p)] - top);
        sum += e;
        for (int i = 0; i < c.v_dim; ++i)
          out[i] += e * v[static_cast<size_t>((plane + p) * c.v_dim + i)];
      }
      for (int i = 0; i < c.v_dim; ++i) out[i] /= sum;
    }

  const PagedCache cache(gpu, c.k_type, c.v_type, c.n_kv_heads, c.k_dim, c.v_dim, capacity,
                         as_cache(c.k_type, k), as_cache(c.v_type, v), seed);
  const OnDevice<float> q_on(gpu, q), out_on(gpu, static_cast<size_t>(c.n_tokens * o_stride)),
      sinks_on(gpu, sinks);
  AttentionShape shape{c.n_heads, scale, c.window, c.soft_cap};
  shape.causal = c.causal;
  // Attends to rows from `first` on, which are cut into spans of these lengths, all in one launch.
  const auto attend_to = [&](int64_t first, const std::vector<int64_t>& lengths, int64_t beyond) {
    std::vector<SpansOnDevice::Span> cut;
    int64_t n = 0;
    for (const int64_t length : lengths) {
      if (length == 0) continue;
      cut.push_back({length, c.position + first + n});
      n += length;
    }
    SpansOnDevice spans(gpu, cut, cache.pages());
    for (SpanBound& bound : spans.bounds) bound.end += beyond;
    const OnDevice<uint8_t> own(gpu, attention_scratch_bytes(cache.layer, shape, spans.bounds) + 1);
    gpu::attention(gpu, {q_on.get() + first * q_stride, n, q_cols, q_stride}, cache.layer,
                   spans.batch, spans.bounds, shape, c.sinks ? sinks_on.get() : nullptr,
                   {out_on.get() + first * o_stride, n, o_cols, o_stride}, own.get());
  };
  const auto result = [&] {
    const std::vector<float> wide = out_on.read();
    std::vector<float> out;
    for (int64_t t = 0; t < c.n_tokens; ++t)
      out.insert(out.end(), wide.begin() + t * o_stride, wide.begin() + t * o_stride + o_cols);
    return out;
  };
  const auto attend = [&] {
    attend_to(0, {c.n_tokens}, c.bound);
    return result();
  };
  // Attends to some rows in other calls, in other spans of one call, or alone.
  const auto attend_apart = [&] {
    if (c.n_tokens <= 16)
      for (int64_t t = 0; t < c.n_tokens; ++t) attend_to(t, {1}, 0);
    else if (c.n_tokens < 40) {
      attend_to(0, {1, 16, c.n_tokens - 17}, 0);
    } else {
      attend_to(0, {c.n_tokens - 20}, 0);
      attend_to(c.n_tokens - 20, {3, 17}, 0);
      attend_to(5, {1}, 0);
    }
    return result();
  };
  const std::vector<float> got = attend();
  const bool expensive = c.n_tokens * end * (c.k_dim + c.v_dim) > 500000;
  if (!expensive) {
    expect(attend() == got, "again in another order of threads: {}", describe(c));
    expect(!c.causal || attend_apart() == got, "tokens apart have the same bits: {}", describe(c));
  }

  // A prompt in two chunks, on both sides of the length at which one kernel takes over from the
  // other.
  if (c.cuts)
    for (const int64_t first : {1, 2, 15, 16, 17, 18, 19, 31, 32, 33}) {
      attend_to(0, {first, c.n_tokens - first}, 0);
      expect(result() == got, "cut after {} rows, as one launch: {}", first, describe(c));
      attend_to(first, {c.n_tokens - first}, 0);
      attend_to(0, {first}, 0);
      expect(result() == got, "cut after {} rows, as two launches: {}", first, describe(c));
    }

  // The CPU's cache has a layout of its own.
  const auto rows_of = [&](const std::vector<float>& values, int64_t dim) {
    std::vector<float> rows;
    for (int64_t p = 0; p < end; ++p)
      for (int64_t h = 0; h < c.n_kv_heads; ++h)
        for (int64_t i = 0; i < dim; ++i)
          rows.push_back(values[static_cast<size_t>((h * capacity + p) * dim + i)]);
    return rows;
  };
  std::vector<float> k_rows = rows_of(k, c.k_dim), v_rows = rows_of(v, c.v_dim);
  const int64_t k_cols = c.n_kv_heads * c.k_dim, v_cols = c.n_kv_heads * c.v_dim;
  const std::vector<int32_t> pages = consecutive_pages(end);
  const auto on_cpu = cpu.make_cache(
      {{{c.n_kv_heads, c.k_dim, c.v_dim, c.k_type, c.v_type}}, static_cast<int64_t>(pages.size())},
      "a test");
  BatchRows all, asked;
  all.add_positions(end, 0, pages);
  asked.add_positions(c.n_tokens, c.position, pages);
  cpu.kv_append({on_cpu.get(), 0}, {k_rows.data(), end, k_cols, k_cols},
                {v_rows.data(), end, v_cols, v_cols}, all.batch());
  const auto sink_tensor = cpu.upload({F32::kId, 1, c.n_heads, static_cast<size_t>(c.n_heads) * 4,
                                       reinterpret_cast<const uint8_t*>(sinks.data()), "sinks"});
  if (c.sinks) shape.sinks = sink_tensor.get();
  std::vector<float> from_cpu(want.size());
  cpu.attention({q.data(), c.n_tokens, q_cols, q_stride}, {on_cpu.get(), 0}, asked.batch(), shape,
                {from_cpu.data(), c.n_tokens, o_cols, o_cols});

  const auto dim = static_cast<size_t>(c.v_dim);
  const Worst worst{difference(got, want, dim),
                    difference(got, {from_cpu.begin(), from_cpu.end()}, dim)};
  expect(worst.oracle <= tolerance && worst.cpu <= 2 * tolerance,
         "{}: off by {} from double, {} from the CPU", describe(c), worst.oracle, worst.cpu);
  return worst;
}

std::vector<uint8_t> bytes_of(const std::vector<uint16_t>& halves) {
  const auto* const first = reinterpret_cast<const uint8_t*>(halves.data());
  return {first, first + 2 * halves.size()};
}

// One position takes almost all of the weight and thousands share the rest, each far below fp16's
// smallest normal number: together they still count.
void check_masses(Gpu& gpu) {
  constexpr int kDim = 64, kPositions = 6000;
  for (const int64_t n_tokens : {1, 33}) {
    std::vector<uint16_t> k(kPositions * kDim), v(kPositions * kDim, fp32_to_fp16(1));
    for (int i = 0; i < kDim; ++i)
      k[static_cast<size_t>(i)] = fp32_to_fp16(1), v[static_cast<size_t>(i)] = 0;
    const float score = 15.3f;
    const std::vector<float> q(static_cast<size_t>(n_tokens) * kDim, score / kDim);
    const PagedCache cache(gpu, CacheType::f16, CacheType::f16, 1, kDim, kDim, kPositions,
                           bytes_of(k), bytes_of(v));
    const OnDevice<float> q_on(gpu, q), out(gpu, q.size());
    const SpansOnDevice spans(gpu, {{n_tokens, kPositions - n_tokens}}, cache.pages());
    const AttentionShape shape{1, 1};
    const OnDevice<uint8_t> scratch(gpu,
                                    attention_scratch_bytes(cache.layer, shape, spans.bounds) + 1);
    gpu::attention(gpu, {q_on.get(), n_tokens, kDim, kDim}, cache.layer, spans.batch, spans.bounds,
                   shape, nullptr, {out.get(), n_tokens, kDim, kDim}, scratch.get());
    const double others = (kPositions - 1) * std::exp(-static_cast<double>(score));
    const float got = out.read().back();
    expect(std::fabs(got - others / (1 + others)) < 1e-5 * others,
           "many small weights, {} tokens: {} instead of {}", n_tokens, got, others / (1 + others));
  }
}

// A query that is not a number gives no numbers, and its neighbours are as without it.
void check_nan(Gpu& gpu) {
  constexpr int kDim = 64, kPositions = 300, kHeads = 4;
  Random random(11);
  std::vector<uint16_t> k(kPositions * kDim), v(k.size());
  for (uint16_t& x : k) x = fp32_to_fp16(random.normal());
  for (uint16_t& x : v) x = fp32_to_fp16(random.normal());
  const PagedCache cache(gpu, CacheType::f16, CacheType::f16, 1, kDim, kDim, kPositions,
                         bytes_of(k), bytes_of(v));
  const AttentionShape shape{kHeads, 0.125f};
  for (const int64_t n_tokens : {1, 30}) {
    std::vector<float> q = random.normals(static_cast<size_t>(n_tokens) * kHeads * kDim);
    const auto attend = [&] {
      const OnDevice<float> q_on(gpu, q), out(gpu, q.size());
      const SpansOnDevice spans(gpu, {{n_tokens, kPositions - n_tokens}}, cache.pages());
      const OnDevice<uint8_t> scratch(
          gpu, attention_scratch_bytes(cache.layer, shape, spans.bounds) + 1);
      gpu::attention(gpu, {q_on.get(), n_tokens, kHeads * kDim, kHeads * kDim}, cache.layer,
                     spans.batch, spans.bounds, shape, nullptr,
                     {out.get(), n_tokens, kHeads * kDim, kHeads * kDim}, scratch.get());
      return out.read();
    };
    const std::vector<float> clean = attend();
    for (const float odd : {std::nanf(""), HUGE_VALF}) {
      q[2 * kDim + 5] = odd;
      const std::vector<float> got = attend();
      bool same = true, none = true;
      for (size_t i = 0; i < got.size(); ++i) {
        if (i / kDim == 2)
          none &= std::isnan(got[i]);
        else
          same &= got[i] == clean[i];
      }
      expect(same && none, "a query of {}, {} tokens: {}, {}", odd, n_tokens, same, none);
    }
  }
}

// A graph recorded for up to 400 positions, replayed at others.
void check_replay(Gpu& gpu) {
  constexpr int kDim = 64, kPositions = 400;
  Random random(9);
  std::vector<uint16_t> k(kPositions * kDim), v(k.size());
  for (uint16_t& x : k) x = fp32_to_fp16(random.normal());
  for (uint16_t& x : v) x = fp32_to_fp16(random.normal());
  const PagedCache cache(gpu, CacheType::f16, CacheType::f16, 1, kDim, kDim, kPositions,
                         bytes_of(k), bytes_of(v));
  const OnDevice<float> q_on(gpu, random.normals(2 * kDim)), out(gpu, 2 * kDim),
      again(gpu, 2 * kDim);
  SpansOnDevice spans(gpu, {{1, 0}}, cache.pages());
  spans.bounds[0].end = kPositions;
  const AttentionShape shape{2, 0.125f};
  const OnDevice<uint8_t> scratch(gpu,
                                  attention_scratch_bytes(cache.layer, shape, spans.bounds) + 1);
  const auto attend = [&](const OnDevice<float>& to) {
    gpu::attention(gpu, {q_on.get(), 1, 2 * kDim, 2 * kDim}, cache.layer, spans.batch, spans.bounds,
                   shape, nullptr, {to.get(), 1, 2 * kDim, 2 * kDim}, scratch.get());
  };
  gpu.begin_capture();
  attend(again);
  const auto graph = gpu.end_capture();
  for (const int32_t position : {0, 399, 64, 200}) {
    const SpanOnDevice span{0, 1, position, 0};
    gpu.write(spans.spans.get(), &span, sizeof span);
    gpu.write(spans.positions.get(), &position, sizeof position);
    gpu.run(*graph);
    const std::vector<float> replayed = again.read();
    attend(out);
    expect(out.read() == replayed, "replayed at {}", position);
  }
}

}  // namespace

int main() {
  Gpu gpu(0);
  CpuBackend cpu({.device = "cpu", .n_threads = 1});
  uint64_t seed = 1;
  const auto check = [&](const Case& c, double tolerance = 1e-5) {
    const Worst worst = run(gpu, cpu, c, seed++, tolerance);
    if (std::getenv("HRUN_VERBOSE"))
      std::printf("%.2g %.2g  %s\n", worst.oracle, worst.cpu, describe(c).c_str());
  };

  if (weak_order()) {
    for (const int64_t n_tokens : {1, 17})
      for (const int dim : {34, 64, 320})
        check({.n_heads = 2,
               .n_kv_heads = 1,
               .k_dim = dim,
               .v_dim = dim,
               .n_tokens = n_tokens,
               .position = 70});
    return failures == 0 ? 0 : 1;
  }
  for (const int64_t position : {0, 1, 63, 64, 65, 127, 128, 129, 1000}) {
    check({.n_heads = 4,
           .n_kv_heads = 2,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 1,
           .position = position});
    check({.n_heads = 6,
           .n_kv_heads = 2,
           .k_dim = 128,
           .v_dim = 128,
           .n_tokens = 2,
           .position = position});
    check({.n_heads = 3,
           .n_kv_heads = 3,
           .k_dim = 80,
           .v_dim = 80,
           .n_tokens = 1,
           .position = position});
  }
  // Every format of the cache, odd sizes of heads, latent attention.
  for (const CacheType k : {CacheType::f16, CacheType::f32})
    for (const CacheType v : {CacheType::f16, CacheType::f32})
      check({.k_type = k,
             .v_type = v,
             .n_heads = 2,
             .n_kv_heads = 1,
             .k_dim = 64,
             .v_dim = 64,
             .n_tokens = 3,
             .position = 70});
  for (const int dim : {32, 34, 40, 50, 72, 96, 112, 160, 192, 256, 320})
    check(
        {.n_heads = 2, .n_kv_heads = 1, .k_dim = dim, .v_dim = dim, .n_tokens = 2, .position = 90});
  check(
      {.n_heads = 4, .n_kv_heads = 1, .k_dim = 576, .v_dim = 512, .n_tokens = 2, .position = 130});
  check(
      {.n_heads = 2, .n_kv_heads = 1, .k_dim = 192, .v_dim = 128, .n_tokens = 2, .position = 130});
  for (const int64_t n_tokens : {1, 3, 20})
    for (const int64_t position : {0, 1, 31, 63, 300})
      check({.n_heads = 5,
             .n_kv_heads = 1,
             .k_dim = 576,
             .v_dim = 512,
             .n_tokens = n_tokens,
             .position = position,
             .window = position == 300 ? 40 : 0,
             .soft_cap = position == 63 ? 20.0f : 0,
             .sinks = position == 31});
  for (const Values values : {Values::large_scores, Values::one_hot, Values::tiny, Values::wide})
    check({.n_heads = 16,
           .n_kv_heads = 1,
           .k_dim = 576,
           .v_dim = 512,
           .n_tokens = 1,
           .position = 100,
           .values = values},
          values == Values::large_scores || values == Values::one_hot ? 1e-4 : 1e-5);
  check({.n_heads = 3, .n_kv_heads = 1, .k_dim = 264, .v_dim = 320, .n_tokens = 7, .position = 50});
  check({.k_type = CacheType::f32,
         .v_type = CacheType::f32,
         .n_heads = 2,
         .n_kv_heads = 1,
         .k_dim = 576,
         .v_dim = 512,
         .n_tokens = 2,
         .position = 130});
  // Windows, caps and sinks.
  for (const int64_t window : {1, 2, 63, 64, 65, 100})
    for (const int64_t position : {0, 62, 63, 64, 128})
      check({.n_heads = 4,
             .n_kv_heads = 2,
             .k_dim = 64,
             .v_dim = 64,
             .n_tokens = 3,
             .position = position,
             .window = window,
             .sinks = window % 2 == 0});
  for (const Values values : {Values::normal, Values::large_scores, Values::all_equal,
                              Values::one_hot, Values::tiny, Values::wide}) {
    const double tolerance = values == Values::large_scores || values == Values::one_hot
                                 ? 1e-4
                                 : 1e-5;  // scores in the hundreds: fp32 holds them to 1e-5
    check({.n_heads = 4,
           .n_kv_heads = 2,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 2,
           .position = 200,
           .values = values},
          tolerance);
    check({.n_heads = 4,
           .n_kv_heads = 2,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 2,
           .position = 200,
           .soft_cap = 30,
           .values = values},
          2 * tolerance);
    check({.n_heads = 4,
           .n_kv_heads = 2,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 2,
           .position = 200,
           .sinks = true,
           .values = values},
          tolerance);
  }
  // The bound is far above the positions that are there: most parts see nothing.
  check({.n_heads = 2,
         .n_kv_heads = 1,
         .k_dim = 64,
         .v_dim = 64,
         .n_tokens = 1,
         .position = 0,
         .bound = 4000});
  check({.n_heads = 2,
         .n_kv_heads = 1,
         .k_dim = 64,
         .v_dim = 64,
         .n_tokens = 1,
         .position = 300,
         .sinks = true,
         .bound = 4000});
  // Prompts are tiles of 64 queries, whole and cut, with all that changes what is seen.  Then there
  // are few queries in several blocks.
  for (const int64_t n_tokens : {9, 16, 17, 31, 33, 64, 65, 100})
    for (const int group : {1, 3})
      check({.n_heads = 2 * group,
             .n_kv_heads = 2,
             .k_dim = 64,
             .v_dim = 64,
             .n_tokens = n_tokens,
             .position = n_tokens % 2 == 0 ? 0 : 77});
  for (const int64_t n_tokens : {17, 128})
    check({.n_heads = 4,
           .n_kv_heads = 1,
           .k_dim = 128,
           .v_dim = 128,
           .n_tokens = n_tokens,
           .position = 30});
  check({.n_heads = 2, .n_kv_heads = 1, .k_dim = 80, .v_dim = 80, .n_tokens = 70, .position = 0});
  check({.n_heads = 2,
         .n_kv_heads = 1,
         .k_dim = 256,
         .v_dim = 256,
         .n_tokens = 50,
         .position = 40,
         .window = 50,
         .soft_cap = 50});
  check({.n_heads = 2, .n_kv_heads = 1, .k_dim = 192, .v_dim = 128, .n_tokens = 40, .position = 3});
  check({.n_heads = 71,
         .n_kv_heads = 1,
         .k_dim = 64,
         .v_dim = 64,
         .n_tokens = 1,
         .position = 300});  // many queries of one token
  check({.n_heads = 8,
         .n_kv_heads = 1,
         .k_dim = 64,
         .v_dim = 64,
         .n_tokens = 16,
         .position = 1000,
         .sinks = true});
  for (const int64_t window : {1, 30, 64, 129})
    check({.n_heads = 2,
           .n_kv_heads = 1,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 70,
           .position = 130,
           .window = window,
           .sinks = window != 30});
  for (const Values values :
       {Values::large_scores, Values::all_equal, Values::one_hot, Values::tiny, Values::wide})
    check({.n_heads = 2,
           .n_kv_heads = 1,
           .k_dim = 64,
           .v_dim = 64,
           .n_tokens = 40,
           .position = 90,
           .values = values},
          values == Values::large_scores || values == Values::one_hot ? 1e-4 : 1e-5);
  // Tokens on both sides of a border between splits, in every kernel.
  for (const int dim : {64, 320, 34})
    check({.n_heads = 2,
           .n_kv_heads = 1,
           .k_dim = dim,
           .v_dim = dim,
           .n_tokens = 3,
           .position = 254,
           .sinks = dim == 64});
  for (const int64_t position : {0, 47, 250})
    for (const int group : {1, 4})
      check({.n_heads = group,
             .n_kv_heads = 1,
             .k_dim = 64,
             .v_dim = 64,
             .n_tokens = 36,
             .position = position,
             .cuts = true});
  for (const int dim : {34, 96, 128, 256, 320})
    check({.n_heads = 2,
           .n_kv_heads = 1,
           .k_dim = dim,
           .v_dim = dim,
           .n_tokens = 36,
           .position = 47,
           .window = dim == 96 ? 50 : 0,
           .soft_cap = dim == 128 ? 20.0f : 0,
           .sinks = dim == 256,
           .cuts = true});
  // Every query of a text sees all of it, or the same distance to either side.
  for (const int64_t n_tokens : {1, 16, 17, 65, 300})
    for (const CacheType type : {CacheType::f16, CacheType::f32})
      for (const int64_t window : {0, 2, 41, 128})
        check({.k_type = type,
               .v_type = type,
               .n_heads = 2,
               .n_kv_heads = 1,
               .k_dim = 32,
               .v_dim = 32,
               .n_tokens = n_tokens,
               .position = 0,
               .window = window,
               .causal = false});
  for (const int dim : {128, 256, 320})
    check({.n_heads = 2,
           .n_kv_heads = 1,
           .k_dim = dim,
           .v_dim = dim,
           .n_tokens = 70,
           .position = 0,
           .window = dim == 128 ? 50 : 0,
           .causal = false});
  check_masses(gpu);
  check_nan(gpu);
  check_replay(gpu);
  // A device whose blocks have too little shared memory for the kernel of wide heads.
  setenv("HRUN_EMULATED_SHARED", "101376", 1);
  Gpu small(0);
  run(small, cpu,
      {.n_heads = 4, .n_kv_heads = 1, .k_dim = 576, .v_dim = 512, .n_tokens = 2, .position = 130},
      seed, 1e-5);
  return failures == 0 ? 0 : 1;
}
