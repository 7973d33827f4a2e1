// MXFP4 in panels: the bits of the general kernels on every tier.  Its scales are powers of two;
// those that fp16 does not hold leave a tensor as it is, but for blocks of zeros.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/tiers.h"
#include "devices/registry.h"
#include "formats/list.h"

namespace {

constexpr int64_t kRows = 70, kCols = 512, kTokens = 9;

struct Result {
  std::vector<float> y;
  bool packed;
};

Result multiply(const hrun::CpuTier& tier, const std::vector<uint8_t>& bytes,
                std::vector<float>& x) {
  const hrun::FormatInfo& f = *hrun::find_format("mxfp4");
  const auto backend =
      hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
  const auto w = backend->upload({f.id, kRows, kCols, f.row_bytes(kCols), bytes.data(), "test"});
  Result out{std::vector<float>(kTokens * kRows), w->holds_copy};
  for (const int64_t n : {int64_t{1}, kTokens}) {  // the kernel for one token, the one for many
    const hrun::MatmulTarget target{w.get(), {out.y.data(), n, kRows, kRows}};
    backend->matmul({&target, 1}, hrun::FloatView{x.data(), n, kCols, kCols});
  }
  return out;
}

}  // namespace

int main() {
  int failures = 0;
  const auto check = [&](bool ok, const char* what, std::string_view tier) {
    if (ok) return;
    ++failures;
    std::printf("failed: %s (%s)\n", what, std::string(tier).c_str());
  };
  unsigned seed = 1;
  const auto random = [&] { return (seed = seed * 1664525u + 1013904223u) >> 8; };
  std::vector<float> x(kTokens * kCols);
  for (float& v : x) v = static_cast<float>(static_cast<int>(random() % 2000) - 1000) * 0x1p-10f;
  std::vector<uint8_t> bytes(kRows * kCols / 32 * 17);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const size_t block = i / 17;
    if (i % 17 == 0)
      bytes[i] = static_cast<uint8_t>(block % 7 == 0 ? 0 : 104 + random() % 39);  // 2^-24 to 2^14
    else
      bytes[i] = block % 7 == 0 ? (block % 2 ? 0x88 : 0x00) : static_cast<uint8_t>(random());
  }
  std::vector<uint8_t> beyond = bytes;
  beyond[17 * 5] = 103;
  const hrun::CpuTier* scalar = nullptr;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers())
    if (tier.name == "scalar") scalar = &tier;
  const Result want = multiply(*scalar, bytes, x), want_beyond = multiply(*scalar, beyond, x);
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available()) continue;
    const Result got = multiply(tier, bytes, x), got_beyond = multiply(tier, beyond, x);
    check(std::memcmp(got.y.data(), want.y.data(), got.y.size() * sizeof(float)) == 0,
          "the same bits", tier.name);
    check(std::memcmp(got_beyond.y.data(), want_beyond.y.data(), got.y.size() * sizeof(float)) == 0,
          "the same bits, unpacked", tier.name);
    check(got.packed == (tier.name != "scalar"), "is packed where the tier can", tier.name);
    check(!got_beyond.packed, "is not packed where a scale does not fit", tier.name);
  }
  return failures != 0;
}
