#include "cpu/tiers.h"

#include <cstdlib>
#include <vector>

#include "base/cpu_features.h"
#include "base/error.h"
#include "cpu_tier_list.h"

namespace hrun {
namespace {

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
  // Never destroyed: at exit another thread may still use it.
  static const std::vector<CpuTier>& tiers = *[] {
    auto* const made = new std::vector<CpuTier>;
    std::vector<CpuTier>& all = *made;
    for (const TierEntry& entry : kTierList) {
      const auto* const kernels =
          new KernelTable{entry.matrices(), entry.attention(), entry.vectors()};
      CpuTier tier{entry.name, kernels, missing_features(entry.features)};
      if (tier.available() && tier.kernels->self_check && !tier.kernels->self_check())
        tier.missing = "a matrix unit that computes right";
      all.push_back(std::move(tier));
    }
    return made;
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
