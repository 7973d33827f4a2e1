#include "cpu/tiers.h"

#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "cpu_tier_list.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace hrun {
namespace {

#if defined(__x86_64__)
enum Register { kEax, kEbx, kEcx, kEdx };

// Register state that the system must save (bits of XCR0): SSE and AVX; the AVX-512 masks and upper
// halves; AMX tiles.
constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6, kTileState = 0x60000;

// Where CPUID reports a feature: Intel SDM volume 2A, CPUID.
struct Feature {
  std::string_view name;
  unsigned leaf, subleaf;
  Register reg;
  int bit;
  uint64_t state;
};
constexpr Feature kFeatures[] = {
    {"fma", 1, 0, kEcx, 12, kYmmState},
    {"f16c", 1, 0, kEcx, 29, kYmmState},
    {"bmi1", 7, 0, kEbx, 3, 0},
    {"avx2", 7, 0, kEbx, 5, kYmmState},
    {"bmi2", 7, 0, kEbx, 8, 0},
    {"avx512f", 7, 0, kEbx, 16, kZmmState},
    {"avx512dq", 7, 0, kEbx, 17, kZmmState},
    {"avx512bw", 7, 0, kEbx, 30, kZmmState},
    {"avx512vl", 7, 0, kEbx, 31, kZmmState},
    {"avx512vbmi", 7, 0, kEcx, 1, kZmmState},
    {"avx512vnni", 7, 0, kEcx, 11, kZmmState},
    {"avxvnni", 7, 1, kEax, 4, kYmmState},
    {"amx-bf16", 7, 0, kEdx, 22, kTileState},
    {"amx-tile", 7, 0, kEdx, 24, kTileState},
    {"amx-int8", 7, 0, kEdx, 25, kTileState},
};

uint64_t saved_state() {
  unsigned r[4];
  if (!__get_cpuid(1, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx]) || !(r[kEcx] & (1u << 27)))
    return 0;  // OSXSAVE
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux keeps the large tile registers from processes that have not asked for them; asked once, for
// all threads (Documentation/arch/x86/xstate.rst).
bool tile_permission() {
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool cpu_has(std::string_view name) {
  for (const Feature& f : kFeatures) {
    if (f.name != name) continue;
    unsigned r[4];
    if (!__get_cpuid_count(f.leaf, f.subleaf, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx])) return false;
    if (!(r[f.reg] >> f.bit & 1u) || (saved_state() & f.state) != f.state) return false;
    return f.state != kTileState || tile_permission();
  }
  return false;
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the auxiliary vector: Linux, arch/arm64/include/uapi/asm/hwcap.h.
bool cpu_has(std::string_view name) {
  if (name == "asimddp") return getauxval(AT_HWCAP) >> 20 & 1;
  if (name == "i8mm") return getauxval(AT_HWCAP2) >> 13 & 1;
  return false;
}
#else
bool cpu_has(std::string_view) { return false; }
#endif

std::string missing_features(std::string_view features) {
  std::string missing;
  while (!features.empty()) {
    const std::string_view name = features.substr(0, features.find(' '));
    features.remove_prefix(std::min(features.size(), name.size() + 1));
    if (!cpu_has(name)) missing += (missing.empty() ? "" : " ") + std::string(name);
  }
  return missing;
}

std::string available_names() {
  std::string names;
  for (const CpuTier& t : cpu_tiers())
    if (t.available()) names += (names.empty() ? "" : ", ") + std::string(t.name);
  return names;
}

}  // namespace

std::span<const CpuTier> cpu_tiers() {
  static const std::vector<CpuTier> tiers = [] {
    std::vector<CpuTier> all;
    for (const TierEntry& entry : kTierList) {
      CpuTier tier{entry.name, &entry.kernels(), missing_features(entry.features)};
      if (tier.available() && tier.kernels->self_check && !tier.kernels->self_check())
        tier.missing = "a matrix unit that computes right";
      all.push_back(std::move(tier));
    }
    return all;
  }();
  return tiers;
}

const CpuTier& select_cpu_tier(std::string_view name) {
  std::string_view origin = "asked for";
  if (name.empty()) {
    const char* forced = std::getenv("HRUN_CPU_TIER");
    if (forced && *forced) {
      name = forced;
      origin = "named by HRUN_CPU_TIER";
    }
  }
  const auto tiers = cpu_tiers();
  for (auto t = tiers.rbegin(); t != tiers.rend(); ++t) {
    if (name.empty() ? !t->available() : t->name != name) continue;
    if (!t->available())
      throw DeviceError("CPU tier '{}' is {}, but this CPU lacks {}; it can run {}", t->name,
                        origin, t->missing, available_names());
    return *t;
  }
  throw DeviceError("CPU tier '{}' is {}, but this build has no such tier; this CPU can run {}",
                    printable(name), origin, available_names());
}

}  // namespace hrun
