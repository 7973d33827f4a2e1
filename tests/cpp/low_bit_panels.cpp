// Formats of one to three bits in panels: every tier packs them, whatever their bits say, and
// computes the bits of the general kernels.  Block scales go through all of fp16, subnormal numbers
// included: panels keep the file's number, not the scale, which may be an eighth of it.  And no
// panel is much larger than the file.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "cpu/tiers.h"
#include "devices/registry.h"
#include "formats/list.h"
#include "random_bits.h"

namespace {

constexpr int64_t kRows = 50, kCols = 512;

// The place of a block's fp16 scale; that of iq1_m lies in the upper four bits of four words.
struct Case {
  const char* name;
  size_t scale_at;
};
constexpr Case kCases[] = {{"q2_k", 80},  {"q3_k", 108}, {"iq3_xxs", 0}, {"iq2_xxs", 0},
                           {"iq2_xs", 0}, {"iq2_s", 0},  {"iq1_s", 0},   {"iq1_m", 48},
                           {"tq1_0", 52}, {"tq2_0", 64}};

void put_scale(const Case& c, uint16_t half, uint8_t* block) {
  if (c.name != std::string_view("iq1_m")) {
    std::memcpy(block + c.scale_at, &half, sizeof half);
    return;
  }
  for (size_t i = 0; i < 4; ++i) {
    uint8_t& byte = block[c.scale_at + 2 * i + 1];
    byte = static_cast<uint8_t>((byte & 15) | ((half >> (4 * i) & 15) << 4));
  }
}

struct Result {
  std::vector<float> y;
  bool packed;
};

Result multiply(const hrun::CpuTier& tier, const hrun::FormatInfo& f,
                const std::vector<uint8_t>& bytes, std::vector<float>& x) {
  const auto backend =
      hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
  const auto w = backend->upload({f.id, kRows, kCols, f.row_bytes(kCols), bytes.data(), "test"});
  Result out{{}, w->holds_copy};
  for (const int64_t n : {1, 2, 3, 7, 19}) {
    std::vector<float> y(static_cast<size_t>(n * kRows));
    const hrun::MatmulTarget target{w.get(), {y.data(), n, kRows, kRows}};
    backend->matmul({&target, 1}, hrun::FloatView{x.data(), n, kCols, kCols});
    out.y.insert(out.y.end(), y.begin(), y.end());
  }
  return out;
}

}  // namespace

int main() {
  int failures = 0;
  const auto check = [&](bool ok, const char* what, std::string_view tier,
                         std::string_view format) {
    if (ok) return;
    ++failures;
    std::printf("failed: %s (%s, %s)\n", what, std::string(tier).c_str(),
                std::string(format).c_str());
  };
  std::vector<float> x(19 * kCols);
  for (float& v : x) v = random_float(-22);
  const hrun::CpuTier* scalar = nullptr;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers())
    if (tier.name == "scalar") scalar = &tier;
  for (const Case& c : kCases) {
    const hrun::FormatInfo& f = *hrun::find_format(c.name);
    std::vector<uint8_t> bytes(kRows * f.row_bytes(kCols));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random_bits() >> 8);
    unsigned block = 0;
    for (size_t at = 0; at < bytes.size(); at += f.block_bytes, ++block) {
      // Half of them subnormal, half of any exponent, all finite; q2_k's second number is its
      // offset.
      const auto half = [&] {
        return static_cast<uint16_t>(random_bits() >> 8 & (block % 2 ? 0x83ff : 0xfbff));
      };
      put_scale(c, half(), bytes.data() + at);
      if (f.has_offset) put_scale({c.name, c.scale_at + 2}, half(), bytes.data() + at);
    }
    const Result want = multiply(*scalar, f, bytes, x);
    for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
      if (!tier.available() || tier.name == "scalar") continue;
      const Result got = multiply(tier, f, bytes, x);
      check(got.packed, "is packed", tier.name, f.name);
      check(std::memcmp(got.y.data(), want.y.data(), got.y.size() * sizeof(float)) == 0,
            "the same bits", tier.name, f.name);
    }
  }
  for (const hrun::CpuTier& tier : hrun::cpu_tiers())
    for (size_t i = 0; i < hrun::formats().size(); ++i) {
      const hrun::FormatInfo& f = hrun::formats()[i];
      const auto panel_bytes = tier.kernels->formats[i].packed_panel_bytes;
      if (panel_bytes == nullptr) continue;
      const double growth = static_cast<double>(panel_bytes(4096)) /
                            static_cast<double>(hrun::kPanelRows * f.row_bytes(4096));
      check(growth < 1.4, "a panel is less than 1.4 times what the file has", tier.name, f.name);
    }
  return failures != 0;
}
