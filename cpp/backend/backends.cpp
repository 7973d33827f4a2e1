// The backends of this build, best first for "auto".
#include <functional>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "cpu/cpu_backend.h"

namespace hrun {
namespace {

struct BackendEntry {
  std::string_view name;
  bool (*present)();
  std::unique_ptr<Backend> (*make)(const BackendOptions&);
};

constexpr BackendEntry kBackends[] = {
    {"cpu", [] { return true; },
     [](const BackendOptions& options) -> std::unique_ptr<Backend> { return std::make_unique<CpuBackend>(options); }},
};

}  // namespace

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  std::string names = "auto";
  for (const BackendEntry& b : kBackends) {
    names += ", " + std::string(b.name);
    if ((options.device == "auto" || options.device == b.name) && b.present()) return b.make(options);
  }
  throw DeviceError("there is no device '{}'; this build knows {}", printable(options.device), names);
}

}  // namespace hrun
