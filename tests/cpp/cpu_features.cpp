// HRUN_CPU_TIER limits every choice of instructions, the encoders' too.
#include "base/cpu_features.h"

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "cpu/tiers.h"
#include "encode/trellis_fast.h"

int main() {
  int failures = 0;
  const auto expect = [&](bool ok, const char* what) {
    if (!ok) std::printf("failed: %s\n", what), ++failures;
  };
  unsetenv("HRUN_CPU_TIER");
  for (const char* name : {"avx2", "avx512f", "i8mm"})
    expect(hrun::cpu_may_use(name) == hrun::cpu_has(name), "without a limit the CPU decides");
  expect(!hrun::cpu_may_use("no-such-feature"), "an unknown feature is missing");
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    setenv("HRUN_CPU_TIER", std::string(tier.name).c_str(), 1);
    expect(!hrun::cpu_may_use("no-such-feature"), "no tier has an unknown feature");
    if (tier.name == "avx2") {
      expect(hrun::cpu_may_use("avx2 fma") == hrun::cpu_has("avx2"), "tier avx2 has AVX2");
      expect(!hrun::cpu_may_use("avx512f"), "tier avx2 has no AVX-512");
    }
  }
  setenv("HRUN_CPU_TIER", "abacus", 1);
  try {
    hrun::cpu_may_use("avx2");
    expect(false, "an unknown tier is an error");
  } catch (const hrun::DeviceError&) {}
  setenv("HRUN_CPU_TIER", "scalar", 1);
  expect(!hrun::cpu_may_use("avx2"), "tier scalar has nothing");
  expect(hrun::lane_searches().size() == 1, "encoders keep to tier scalar");
  return failures != 0;
}
