#include "devices/plugins.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <vector>

namespace hrun {
namespace {

constexpr const char* kCudaPackages[] = {"hrun_cuda13", "hrun_cuda12"};
constexpr PluginFile kFiles[] = {
    {"CUDA", "libhrun_cuda.so", "HRUN_CUDA_LIBRARY", kCudaPackages, "nvcc"}};

std::filesystem::path folder_of_this_library() {
  Dl_info here;
  if (!dladdr(reinterpret_cast<const void*>(&plugin_files), &here) || !here.dli_fname) return {};
  return std::filesystem::absolute(here.dli_fname).parent_path();
}

// The places where the library can be, best first: only the one that the environment names, or
// beside this library, then in the packages beside the one that this library is in.
std::vector<std::filesystem::path> places_of(const PluginFile& file) {
  if (const char* const given = std::getenv(file.environment); given && *given) return {given};
  const std::filesystem::path here = folder_of_this_library();
  std::vector<std::filesystem::path> places{here / file.file};
  for (const char* const package : file.packages)
    places.push_back(here.parent_path() / package / file.file);
  return places;
}

const BackendPlugin* open_library(const std::filesystem::path& path, const PluginFile& file,
                                  std::string& reason) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    reason = std::string("the ") + file.kind + " backend cannot be opened: " + dlerror();
    return nullptr;
  }
  const auto entry =
      reinterpret_cast<const BackendPlugin* (*)()>(dlsym(library, BackendPlugin::kEntry));
  const BackendPlugin* const plugin = entry ? entry() : nullptr;
  if (!plugin || plugin->interface != BackendPlugin::kInterface) {
    reason = path.string() + " belongs to another version of hrun; install both again, together";
    return nullptr;
  }
  return plugin;  // stays open as long as the process
}

std::string not_installed(const PluginFile& file, const std::filesystem::path& place) {
  std::string packages;
  for (const char* const package : file.packages) {
    std::string name = package;
    std::replace(name.begin(), name.end(), '_', '-');
    packages += (packages.empty() ? "" : " or ") + name;
  }
  return std::string("hrun was installed without its ") + file.kind + " backend (" +
         place.string() + " is not there); install the package " + packages +
         ", or hrun again where " + file.compiler + " is found";
}

// The first library with a usable device; where none has one, the first that can be opened.  A
// driver that is too old for one toolkit's package may serve the other's.
const BackendPlugin* find_plugin(const PluginFile& file, std::string& reason) {
  std::vector<std::filesystem::path> places = places_of(file);
  const std::filesystem::path first = places.front();
  std::erase_if(places, [](const std::filesystem::path& place) {
    std::error_code ignored;
    return !std::filesystem::exists(place, ignored);
  });
  if (places.empty()) reason = not_installed(file, first);
  const BackendPlugin* found = nullptr;
  for (const std::filesystem::path& place : places) {
    std::string why;
    const BackendPlugin* const plugin = open_library(place, file, why);
    if (reason.empty()) reason = why;
    if (!plugin) continue;
    if (!found) found = plugin;
    if (places.size() == 1 || !plugin->devices(why).empty()) {
      found = plugin;
      break;
    }
  }
  if (found) reason.clear();
  return found;
}

}  // namespace

std::span<const PluginFile> plugin_files() { return kFiles; }

const BackendPlugin* open_plugin(const PluginFile& file, std::string& reason) {
  static std::mutex mutex;
  static const BackendPlugin* opened[std::size(kFiles)] = {};
  const std::lock_guard lock(mutex);
  const BackendPlugin*& plugin = opened[&file - kFiles];
  reason.clear();
  if (!plugin) plugin = find_plugin(file, reason);
  return plugin;
}

}  // namespace hrun
