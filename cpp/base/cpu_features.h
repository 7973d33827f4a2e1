// Which instructions this process may use: what the CPU and the system offer, within the tier that
// HRUN_CPU_TIER names.  Every choice between instruction sets asks here.
#pragma once

#include <string>
#include <string_view>

namespace hrun {

// Does this CPU have the feature, by the names in cpp/cpu/tiers.cmake?
bool cpu_has(std::string_view feature);

// The maker of the CPU, as CPUID names it: "GenuineIntel", "AuthenticAMD", ...; empty where there
// is no CPUID.
std::string cpu_vendor();

// May code use all these features, separated by spaces: the CPU has them, and so does the tier that
// HRUN_CPU_TIER names, if it is set?  Throws DeviceError if this build has no such tier.
bool cpu_may_use(std::string_view features);

}  // namespace hrun
