#include "base/control_groups.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

namespace hrun {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Calls look(folder, version 2?) for this process's group for the controller, and for the groups
// above it.
template <class Look>
void each_group(const std::string& proc, const std::string& sys, const std::string& controller,
                Look&& look) {
  std::ifstream groups(proc + "/self/cgroup");
  for (std::string line;
       std::getline(groups, line);) {  // "id:controllers:/path"; version 2 has "0::/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find("," + controller + ",") == std::string::npos)
      continue;
    const std::string mount = sys + "/fs/cgroup" + (unified ? "" : "/" + controllers);
    for (int depth = 0; depth < 32; ++depth) {
      if (path == "/") path.clear();
      look(mount + path, unified);
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.erase(slash == std::string::npos ? 0 : slash);
    }
  }
}

// The number in a file that holds one.  Nothing for "max" and for files that are not there.
std::optional<size_t> number_in(const std::string& path) {
  std::ifstream file(path);
  unsigned long long value = 0;
  return file >> value ? std::optional<size_t>(value) : std::nullopt;
}

size_t page_cache(const std::string& folder, bool unified) {
  const std::string prefix = unified ? "" : "total_";  // version 1 counts groups below apart
  std::ifstream file(folder + "/memory.stat");
  std::string key;
  size_t cache = 0;
  for (size_t bytes = 0; file >> key >> bytes;)
    if (key == prefix + "inactive_file" || key == prefix + "active_file") cache += bytes;
  return cache;
}

}  // namespace

int control_group_cpus(const std::string& proc, const std::string& sys) {
  double limit = 0;
  const auto consider = [&](double quota, double period) {
    if (quota > 0 && period > 0 && (limit == 0 || quota / period < limit)) limit = quota / period;
  };
  each_group(proc, sys, "cpu", [&](const std::string& folder, bool unified) {
    double quota = 0, period = 0;
    if (unified) {
      const std::string max = first_line(folder + "/cpu.max");  // "max 100000" or "50000 100000"
      if (std::sscanf(max.c_str(), "%lf %lf", &quota, &period) == 2) consider(quota, period);
    } else {
      if (std::sscanf(first_line(folder + "/cpu.cfs_quota_us").c_str(), "%lf", &quota) == 1 &&
          std::sscanf(first_line(folder + "/cpu.cfs_period_us").c_str(), "%lf", &period) == 1)
        consider(quota, period);
    }
  });
  return limit > 0 ? std::max(1, static_cast<int>(std::min(limit + 0.999, 1e6))) : 0;
}

std::optional<size_t> control_group_memory(const std::string& proc, const std::string& sys) {
  std::optional<size_t> least;
  each_group(proc, sys, "memory", [&](const std::string& folder, bool unified) {
    const auto limit = number_in(folder + (unified ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto used = number_in(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes"));
    // Version 1 reports the largest number of pages where there is no limit.
    if (!limit || !used || *limit > (size_t{1} << 62)) return;
    const size_t held = *used - std::min(*used, page_cache(folder, unified));
    const size_t left = *limit - std::min(*limit, held);
    least = least ? std::min(*least, left) : left;
  });
  return least;
}

}  // namespace hrun
