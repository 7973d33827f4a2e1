#include "base/cpu_features.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "cpu_tier_features.h"

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

// The place where CPUID reports a feature: Intel SDM volume 2A, CPUID.
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

// Linux keeps the large tile registers from processes that have not asked for them.  We ask once,
// for all threads (Documentation/arch/x86/xstate.rst).
bool tile_permission() {
  constexpr long kRequestPermission = 0x1023,
                 kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

bool has(std::string_view name) {
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
bool has(std::string_view name) {
  if (name == "asimddp") return getauxval(AT_HWCAP) >> 20 & 1;
  if (name == "i8mm") return getauxval(AT_HWCAP2) >> 13 & 1;
  return false;
}
#else
bool has(std::string_view) { return false; }
#endif

// The features of the tier that HRUN_CPU_TIER names; null: no limit.
const TierFeatures* tier_limit() {
  const char* const name = std::getenv("HRUN_CPU_TIER");
  if (!name || !*name) return nullptr;
  std::string known;
  for (const TierFeatures& tier : kTierFeatures) {
    if (tier.name == name) return &tier;
    known += (known.empty() ? "" : ", ") + std::string(tier.name);
  }
  throw DeviceError("CPU tier '{}' is named by HRUN_CPU_TIER, but this build has {}",
                    printable(name), known);
}

bool contains(std::string_view words, std::string_view word) {
  while (!words.empty()) {
    const std::string_view first = words.substr(0, words.find(' '));
    if (first == word) return true;
    words.remove_prefix(std::min(words.size(), first.size() + 1));
  }
  return false;
}

}  // namespace

bool cpu_has(std::string_view feature) { return has(feature); }

std::string cpu_vendor() {
#if defined(__x86_64__)
  unsigned r[4];
  if (!__get_cpuid(0, &r[kEax], &r[kEbx], &r[kEcx], &r[kEdx])) return {};
  std::string name;
  for (const Register part : {kEbx, kEdx, kEcx})
    name.append(reinterpret_cast<const char*>(&r[part]), sizeof r[part]);
  return name;
#else
  return {};
#endif
}

bool cpu_may_use(std::string_view features) {
  const TierFeatures* const limit = tier_limit();
  while (!features.empty()) {
    const std::string_view name = features.substr(0, features.find(' '));
    features.remove_prefix(std::min(features.size(), name.size() + 1));
    if (!cpu_has(name) || (limit && !contains(limit->features, name))) return false;
  }
  return true;
}

}  // namespace hrun
