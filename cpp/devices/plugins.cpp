#include "devices/plugins.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <mutex>

namespace hrun {
namespace {

constexpr PluginFile kFiles[] = {{"CUDA", "libhrun_cuda.so", "HRUN_CUDA_LIBRARY", "nvcc"}};

std::filesystem::path beside_this_library(const char* file) {
  Dl_info here;
  if (!dladdr(reinterpret_cast<const void*>(&plugin_files), &here) || !here.dli_fname) return file;
  return std::filesystem::path(here.dli_fname).parent_path() / file;
}

const BackendPlugin* open_library(const PluginFile& file, std::string& reason) {
  const char* const given = std::getenv(file.environment);
  const std::filesystem::path path =
      given && *given ? std::filesystem::path(given) : beside_this_library(file.file);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    reason = std::string("hrun was installed without its ") + file.kind + " backend (" +
             path.string() + " is not there); install it again where " + file.compiler +
             " is found";
    return nullptr;
  }
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    reason = std::string("the ") + file.kind + " backend cannot be opened: " + dlerror();
    return nullptr;
  }
  const auto entry =
      reinterpret_cast<const BackendPlugin* (*)()>(dlsym(library, BackendPlugin::kEntry));
  const BackendPlugin* const plugin = entry ? entry() : nullptr;
  if (!plugin || plugin->interface != BackendPlugin::kInterface) {
    reason = path.string() + " belongs to another version of hrun; install hrun again";
    return nullptr;
  }
  return plugin;  // stays open as long as the process
}

}  // namespace

std::span<const PluginFile> plugin_files() { return kFiles; }

const BackendPlugin* open_plugin(const PluginFile& file, std::string& reason) {
  static std::mutex mutex;
  static const BackendPlugin* opened[std::size(kFiles)] = {};
  const std::lock_guard lock(mutex);
  const BackendPlugin*& plugin = opened[&file - kFiles];
  reason.clear();
  if (!plugin) plugin = open_library(file, reason);
  return plugin;
}

}  // namespace hrun
