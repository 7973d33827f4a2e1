// Limits of the control groups that this process is in, of version 1 and 2, nested ones included.
// proc, sys: where the system mounts those file systems.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace hrun {

// CPUs that the quotas allow, rounded up; 0 without a limit.
int control_group_cpus(const std::string& proc, const std::string& sys);

// Bytes that the limits leave, page cache counted as free, since it is given back on demand; none
// without a limit.
std::optional<size_t> control_group_memory(const std::string& proc, const std::string& sys);

}  // namespace hrun
