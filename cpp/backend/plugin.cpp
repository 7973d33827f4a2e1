#include "backend/plugin.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

namespace hrun {
namespace {

constexpr const char* kFileName = "libhrun_cuda.so";

struct Opened {
  const BackendPlugin* plugin = nullptr;
  std::string reason;
};

std::filesystem::path beside_this_library() {
  Dl_info here;
  if (!dladdr(reinterpret_cast<const void*>(&cuda_plugin), &here) || !here.dli_fname)
    return kFileName;
  return std::filesystem::path(here.dli_fname).parent_path() / kFileName;
}

Opened open_library() {
  const char* const given = std::getenv("HRUN_CUDA_LIBRARY");
  const std::filesystem::path path =
      given && *given ? std::filesystem::path(given) : beside_this_library();
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    return {nullptr, "hrun was installed without its CUDA backend (" + path.string() +
                         " is not there); install it again where nvcc is found"};
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return {nullptr, std::string("the CUDA backend cannot be opened: ") + dlerror()};
  const auto entry =
      reinterpret_cast<const BackendPlugin* (*)()>(dlsym(library, BackendPlugin::kEntry));
  const BackendPlugin* const plugin = entry ? entry() : nullptr;
  if (!plugin || plugin->interface != BackendPlugin::kInterface)
    return {nullptr, path.string() + " belongs to another version of hrun; install hrun again"};
  return {plugin, ""};  // stays open as long as the process
}

}  // namespace

const BackendPlugin* cuda_plugin(std::string& reason) {
  static std::mutex mutex;
  static const BackendPlugin* opened = nullptr;
  const std::lock_guard lock(mutex);
  reason.clear();
  if (!opened) {
    const Opened now = open_library();
    opened = now.plugin;
    reason = now.reason;
  }
  return opened;
}

}  // namespace hrun
