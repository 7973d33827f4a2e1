// Every tier that this processor can run gives the bits of the scalar tier: matrix products of all
// formats on random and hostile inputs, and the operations beside them.  Prints a digest of the
// scalar results, which another architecture must print too (tests/cpu/test_aarch64.py).
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/half.h"
#include "cpu/backend/cpu_backend.h"
#include "formats/list.h"
#include "random_bits.h"

namespace {

float random_float() { return ::random_float(-22); }

// Inputs that break kernels: each token is one.
std::vector<float> hostile(int64_t cols, int64_t& n_tokens) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x;
  const auto add = [&](auto&& value) {
    for (int64_t c = 0; c < cols; ++c) x.push_back(value(c));
    ++n_tokens;
  };
  n_tokens = 0;
  add([](int64_t) { return random_float(); });
  add([](int64_t) { return 1.0f; });
  add([](int64_t) { return -1.0f; });
  add([](int64_t) { return 0.0f; });
  add([](int64_t) { return 1e30f * random_float(); });
  add([](int64_t) { return 1e-40f * random_float(); });
  add([](int64_t) { return 1e-35f * random_float(); });
  add([&](int64_t c) { return c == cols / 2 ? 3.0f : 0.0f; });
  add([](int64_t c) { return c % 2 ? -1.0f : 1.0f; });
  add([&](int64_t c) { return c == cols / 3 ? 1e4f : random_float(); });
  add([](int64_t c) { return std::popcount(static_cast<unsigned>(c) & 0xa5u) % 2 ? -1.0f : 1.0f; });
  add([](int64_t c) { return static_cast<float>(c % 255 - 127) + 0.5f; });  // ties
  add([](int64_t c) { return c == 5 ? kInfinity : random_float(); });
  add([](int64_t c) { return c == 5 ? std::nanf("") : random_float(); });
  for (int i = 0; i < 9; ++i) add([](int64_t) { return random_float(); });
  return x;
}

// Random bytes whose decoded values are finite.
std::vector<uint8_t> random_rows(const hrun::FormatInfo& f, int64_t rows, int64_t cols) {
  const size_t bytes = f.row_bytes(cols);
  std::vector<uint8_t> data(bytes * static_cast<size_t>(rows));
  std::vector<float> decoded(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* row = data.data() + static_cast<size_t>(r) * bytes;
    for (int tries = 0;; ++tries) {
      for (size_t i = 0; i < bytes; ++i)
        row[i] = static_cast<uint8_t>(random_bits() >> 8 & (tries > 200 ? 0x3f : 0xff));
      f.decode_row(row, cols, decoded.data());
      bool finite = true;
      for (const float v : decoded) finite &= std::isfinite(v) && std::fabs(v) < 1e20f;
      if (finite || tries > 400) break;
    }
  }
  return data;
}

// Blocks of long runs of one byte, so that the codes of whole groups are the lowest or the highest,
// and so are group scales and offsets.  The first and last two numbers, which may be a block's fp16
// scale or offset, are 1/16.
std::vector<uint8_t> extreme_rows(const hrun::FormatInfo& f, int64_t rows, int64_t cols) {
  std::vector<uint8_t> data(f.row_bytes(cols) * static_cast<size_t>(rows));
  constexpr uint8_t kBytes[] = {0x00, 0xff, 0x00, 0xff, 0x0f, 0xf0, 0x7f, 0x80};
  const size_t block_bytes = f.block_bytes;
  for (size_t block = 0; block + block_bytes <= data.size(); block += block_bytes) {
    uint8_t byte = kBytes[random_bits() % 8];
    size_t until = random_bits() % block_bytes;
    for (size_t i = 0; i < block_bytes; ++i) {
      if (i == until) {
        byte = kBytes[random_bits() % 8];
        until += 1 + random_bits() % (block_bytes / 2);
      }
      data[block + i] = byte;
    }
    for (const size_t at : {size_t{0}, size_t{2}, block_bytes - 4, block_bytes - 2}) {
      data[block + at] = 0;
      data[block + at + 1] = 0x2c;
    }
  }
  return data;
}

struct Results {
  std::string what;
  std::vector<float> values;
};

// Multiplies one of the inputs and puts it through the other operations; the same for every tier.
std::vector<Results> run(const std::string& tier) {
  random_state = 12345;
  std::vector<Results> all;
  hrun::CpuBackend cpu({.device = "cpu", .n_threads = 2, .cpu_tier = tier});
  for (const hrun::FormatInfo& f : hrun::formats())
    for (const auto& [cols, extreme] : {std::pair<int64_t, bool>{96, false},
                                        {256, false},
                                        {544, false},
                                        {1024, false},
                                        {1024, true}}) {
      if (!f.row_ok(cols) || (extreme && f.block_values == 1)) continue;
      constexpr int64_t kRows = 37;
      const std::vector<uint8_t> data =
          extreme ? extreme_rows(f, kRows, cols) : random_rows(f, kRows, cols);
      const auto weights = cpu.upload({f.id, kRows, cols, f.row_bytes(cols), data.data(), "test"});
      int64_t n = 0;
      std::vector<float> x = hostile(cols, n);
      for (const int64_t tokens : {n, int64_t{4}, int64_t{2}, int64_t{1}}) {
        std::vector<float> y(static_cast<size_t>(tokens * kRows));
        const hrun::MatmulTarget target{weights.get(), {y.data(), tokens, kRows, kRows}};
        cpu.matmul({&target, 1}, hrun::FloatView{x.data(), tokens, cols, cols});
        all.push_back({std::string(extreme ? "extreme " : "") + "matmul " + std::string(f.name) +
                           ", " + std::to_string(cols) + " columns, " + std::to_string(tokens) +
                           " tokens",
                       y});
      }
    }
  for (const int64_t cols : {7, 64, 300}) {
    int64_t n = 0;
    std::vector<float> x = hostile(cols, n), gate = hostile(cols, n), out(x.size()),
                       weight(static_cast<size_t>(cols));
    for (float& w : weight) w = random_float();
    const auto norm = cpu.upload({hrun::F32::kId, 1, cols, weight.size() * 4,
                                  reinterpret_cast<const uint8_t*>(weight.data()), "test"});
    const auto view = [&](std::vector<float>& v) {
      return hrun::FloatView{v.data(), n, cols, cols};
    };
    cpu.rms_norm(view(x), *norm, 1e-5f, view(out));
    all.push_back({"rms_norm", out});
    cpu.silu_mul(view(gate), view(x), view(out));
    all.push_back({"silu_mul", out});
  }
  for (const auto& [heads, kv_heads, dim] :
       {std::tuple{4, 2, 64}, std::tuple{3, 1, 20}, std::tuple{2, 2, 128}})
    for (const hrun::CacheType type : {hrun::CacheType::f16, hrun::CacheType::f32}) {
      constexpr int64_t kTokens = 150, kLong = 704;
      const auto cells = static_cast<size_t>(kLong * kv_heads * dim);
      std::vector<float> k(cells), v(cells), q(static_cast<size_t>(kTokens * heads * dim)),
          out(q.size());
      for (auto* a : {&k, &v, &q})
        for (float& e : *a) e = random_float();
      const std::vector<int32_t> pages = hrun::consecutive_pages(kLong);
      const auto cache = cpu.make_cache(
          {{{kv_heads, dim, dim, type, type}}, static_cast<int64_t>(pages.size())}, "a test");
      hrun::BatchRows rows, first, last;
      rows.add_positions(kLong, 0, pages);
      first.add_positions(kTokens, 0, pages);
      last.add_positions(1, kLong - 1, pages);
      cpu.kv_append({cache.get(), 0}, {k.data(), kLong, kv_heads * dim, kv_heads * dim},
                    {v.data(), kLong, kv_heads * dim, kv_heads * dim}, rows.batch());
      const int64_t width = heads * dim;
      cpu.attention({q.data(), kTokens, width, width}, {cache.get(), 0}, first.batch(),
                    {heads, 0.2f}, {out.data(), kTokens, width, width});
      cpu.attention({q.data(), 1, width, width}, {cache.get(), 0}, last.batch(), {heads, 0.2f},
                    {out.data(), 1, width, width});
      all.push_back({"attention of " + std::to_string(heads) + " heads", out});
    }
  return all;
}

// Counts the formats for which another tier has kernels for packed weights and this one has not.
int packed_differ(const hrun::CpuTier& tier) {
  int differ = 0;
  for (size_t f = 0; f < hrun::formats().size(); ++f) {
    bool somewhere = false;
    for (const hrun::CpuTier& t : hrun::cpu_tiers())
      somewhere |= t.kernels->formats[f].pack_panel != nullptr;
    if (somewhere == (tier.kernels->formats[f].pack_panel != nullptr)) continue;
    ++differ;
    std::printf("%s: no packed kernel of %s\n", tier.name.data(), hrun::formats()[f].name.data());
  }
  return differ;
}

// No activation becomes -128, because kernels could not take its negative, whatever the magnitude
// that becomes 127.
bool codes_stay_in_range(const hrun::CpuTier& tier) {
  constexpr int kBlock = 32, kBlocks = 64;
  std::vector<float> x(kBlock * kBlocks), scale(kBlocks), signs(x.size(), 1.0f);
  std::vector<int8_t> codes(x.size());
  std::vector<int32_t> block_sums(kBlocks);
  const hrun::PackedActivations to{.codes = codes.data(),
                                   .scale = scale.data(),
                                   .block_sums = block_sums.data(),
                                   .n_tokens = 1,
                                   .stride = 1,
                                   .n_blocks = kBlocks};
  for (int round = 0; round < 2000; ++round) {
    for (int b = 0; b < kBlocks; ++b) {
      const float largest = std::bit_cast<float>(random_bits() % 0x7f800000u);
      for (int i = 0; i < kBlock; ++i)
        x[static_cast<size_t>(b * kBlock + i)] = i % 3 ? -largest : largest;
    }
    for (int b = 0; b < kBlocks; ++b)
      tier.kernels->quantize_packed({.x = {x.data(), 1, kBlock * kBlocks, kBlock * kBlocks}}, 0, b,
                                    hrun::InputForm::kInt8x32, signs.data(), to);
    for (size_t i = 0; i < codes.size(); ++i)
      if (codes[i] < -127) {
        std::printf("%s: %a becomes code %d\n", tier.name.data(), x[i], codes[i]);
        return false;
      }
  }
  return true;
}

uint32_t bits(float x) { return std::isnan(x) ? 0x7fc00000u : std::bit_cast<uint32_t>(x); }

}  // namespace

int main() {
  const std::vector<Results> want = run("scalar");
  uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a
  for (const Results& r : want)
    for (const float x : r.values) digest = (digest ^ bits(x)) * 0x100000001b3u;
  std::printf("scalar digest %016llx of %zu results\n", static_cast<unsigned long long>(digest),
              want.size());
  int failures = 0;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available() || tier.name == "scalar") continue;
    const std::vector<Results> got = run(std::string(tier.name));
    int wrong = 0;
    for (size_t i = 0; i < want.size(); ++i)
      for (size_t j = 0; j < want[i].values.size(); ++j)
        if (bits(got[i].values[j]) != bits(want[i].values[j])) {
          if (++wrong <= 20)
            std::printf("%s: %s: value %zu is %a, of the scalar tier %a\n", tier.name.data(),
                        want[i].what.c_str(), j, got[i].values[j], want[i].values[j]);
          break;
        }
    std::printf("tier %s: %d of %zu results differ\n", tier.name.data(), wrong, want.size());
    failures += wrong + packed_differ(tier) + !codes_stay_in_range(tier);
  }
  return failures != 0;
}
