// Limits of the control groups that this process is in, of version 1 and 2, nested ones included.
// proc, sys: where the system mounts those file systems.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace hrun {

// The number of CPUs that the quotas allow, rounded up; 0 without a limit.
int control_group_cpus(const std::string& proc, const std::string& sys);

// The bytes that the limits leave; nothing without a limit.  The page cache counts as free, since
// it is given back on demand.
std::optional<size_t> control_group_memory(const std::string& proc, const std::string& sys);

}  // namespace hrun
