#include "devices/registry.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/error.h"
#include "cpu/backend/cpu_backend.h"
#include "devices/plugins.h"

namespace hrun {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return out;
}

// A name of a kind and a number: "cuda", "cuda1", "CUDA1" or "cuda:1".
struct NamedGpu {
  const PluginFile* file = nullptr;  // null: no such kind
  int number = 0;
};
NamedGpu parse(std::string_view text) {
  const std::string name = lower(text);
  for (const PluginFile& file : plugin_files()) {
    const std::string kind = lower(file.kind);
    if (!name.starts_with(kind)) continue;
    std::string_view rest = std::string_view(name).substr(kind.size());
    if (rest.empty()) return {&file, 0};
    if (rest.front() == ':') rest.remove_prefix(1);
    int number = -1;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
    if (error == std::errc() && end == rest.data() + rest.size() && number >= 0)
      return {&file, number};
  }
  return {};
}

// A GPU that was found.
struct Gpu {
  const BackendPlugin* plugin;
  DeviceDescription device;
};

std::vector<Gpu> gpus_of(const PluginFile& file, std::string& reason) {
  std::vector<Gpu> found;
  if (const BackendPlugin* const plugin = open_plugin(file, reason))
    for (DeviceDescription& device : plugin->devices(reason))
      found.push_back({plugin, std::move(device)});
  return found;
}

// GPUs of all kinds.  `reason` becomes what the kinds without a GPU say.
std::vector<Gpu> all_gpus(std::string& reason) {
  std::vector<Gpu> found;
  for (const PluginFile& file : plugin_files()) {
    std::string why;
    std::vector<Gpu> some = gpus_of(file, why);
    std::move(some.begin(), some.end(), std::back_inserter(found));
    if (!why.empty()) reason += (reason.empty() ? "" : "; ") + why;
  }
  return found;
}

std::string possible_names(std::string& reason) {
  std::string names = "auto";
  for (const Gpu& gpu : all_gpus(reason)) names += ", " + gpu.device.name;
  return names + ", " + CpuBackend::device().name;
}

[[noreturn]] void no_such_device(std::string_view name) {
  std::string reason;
  const std::string names = possible_names(reason);
  throw DeviceError("there is no device '{}'; possible: {}{}{}", printable(name), names,
                    reason.empty() ? "" : "; no GPU: ", reason);
}

// Cards that are too old or in use are not listed: a place in the list is no number.
Gpu gpu_of(std::string_view name) {
  const NamedGpu named = parse(name);
  if (!named.file) no_such_device(name);
  std::string reason;
  for (Gpu& gpu : gpus_of(*named.file, reason))
    if (gpu.device.index == named.number) return std::move(gpu);
  std::string ignored;
  const std::string names = possible_names(ignored);
  throw DeviceError("device '{}' cannot be had{}{}; possible: {}", printable(name),
                    reason.empty() ? "" : ": ", reason, names);
}

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> names;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    std::string_view name = text.substr(at, end - at);
    while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
    while (!name.empty() && name.back() == ' ') name.remove_suffix(1);
    names.emplace_back(name);
    at = end + 1;
  }
  return names;
}

// The devices that --device asks for, or HRUN_DEVICE in its place.
struct Asked {
  bool any = false;       // GPUs, where there are some
  std::vector<Gpu> gpus;  // by name
};
Asked asked(const BackendOptions& options) {
  const char* const preferred = std::getenv("HRUN_DEVICE");
  const std::string text =
      options.device == "auto" && preferred && *preferred ? preferred : options.device;
  if (lower(text) == "auto") return {true, {}};
  if (lower(text) == "cpu" || lower(text) == "none") return {};
  Asked found;
  for (const std::string& name : split_names(text)) {
    found.gpus.push_back(gpu_of(name));
    for (size_t i = 0; i + 1 < found.gpus.size(); ++i)
      if (found.gpus[i].device.name == found.gpus.back().device.name)
        throw DeviceError("device '{}' is named twice", printable(name));
  }
  return found;
}

// GPUs that share the last layers of a model.
struct Placement {
  std::vector<Gpu> gpus;
  std::vector<DeviceRoom> rooms;
  int64_t n = 0;  // layers, and the head
};

DeviceRoom room_of(const Gpu& gpu, const SizesOf& sizes) {
  return {gpu.plugin->free_bytes(gpu.device.index), sizes(gpu.plugin->weight_bytes)};
}

Placement place(const Asked& wish, int64_t n_wanted, const SizesOf& sizes, std::string& reason) {
  Placement all;
  std::vector<Gpu> candidates = wish.any ? all_gpus(reason) : wish.gpus;
  for (Gpu& gpu : candidates) {
    DeviceRoom room;
    try {
      room = room_of(gpu, sizes);
    } catch (const DeviceError& e) {  // in use by another process alone, say
      if (!wish.any) throw;
      reason = e.what();
      continue;
    }
    const int64_t fitting = layers_that_fit({&room, 1});
    if (wish.any && fitting >= n_wanted) return {{std::move(gpu)}, {std::move(room)}, n_wanted};
    all.gpus.push_back(std::move(gpu));
    all.rooms.push_back(std::move(room));
  }
  all.n = all.gpus.empty() ? 0 : std::min(layers_that_fit(all.rooms), n_wanted);
  return all;
}

}  // namespace

std::vector<DeviceDescription> list_devices(std::string& reason, bool free_memory) {
  reason.clear();
  std::vector<DeviceDescription> all;
  for (Gpu& gpu : all_gpus(reason)) try {
      if (free_memory) gpu.device.free_bytes = gpu.plugin->free_bytes(gpu.device.index);
      all.push_back(std::move(gpu.device));
    } catch (const DeviceError& e) {  // in use by another process alone, say
      reason = e.what();
    }
  all.push_back(CpuBackend::device());
  return all;
}

DevicePeaks measure_device(const std::string& name) {
  if (lower(name) == CpuBackend::device().name)
    throw DeviceError("device '{}' cannot be measured: it is no GPU", printable(name));
  const Gpu gpu = gpu_of(name);
  return gpu.plugin->measure(gpu.device.index);
}

std::unique_ptr<Backend> make_backend(const BackendOptions& options) {
  Asked wish = asked(options);
  std::string reason;
  if (wish.any) wish.gpus = all_gpus(reason);
  if (wish.gpus.empty()) return std::make_unique<CpuBackend>(options);
  const Gpu& gpu = wish.gpus.front();
  return gpu.plugin->make(gpu.device.index, options);
}

Backends make_backends(const BackendOptions& options, int64_t n_layers, const SizesOf& sizes) {
  const Asked wish = asked(options);
  const bool counts = options.n_gpu_layers < 0;  // or the wish is a number
  const int64_t n_wanted = counts ? n_layers + 1 : std::min(options.n_gpu_layers, n_layers + 1);
  Backends made;
  Placement placed;
  if ((wish.any || !wish.gpus.empty()) && n_wanted > 0) {
    std::string reason;
    placed = place(wish, n_wanted, sizes, reason);
    if (placed.gpus.empty()) {
      if (options.n_gpu_layers > 0) made.warning = "no layers go to a GPU: " + reason;
    } else if (!counts) {
      placed.n = n_wanted;  // what does not fit says so
    } else if (placed.n < n_wanted) {
      size_t free = 0;
      std::string names;
      for (size_t i = 0; i < placed.gpus.size(); ++i) {
        free += placed.rooms[i].free_bytes;
        names += (i == 0 ? "" : " and ") + placed.gpus[i].device.name;
      }
      made.warning = message(
          "{} of {} layers fit in the {} MiB that {} {} free; the others, and the head, are on the "
          "CPU",
          placed.n, n_layers, free >> 20, names, placed.gpus.size() > 1 ? "have" : "has");
    }
  }
  const int64_t first_layer = std::max<int64_t>(n_layers - placed.n, 0);
  if (placed.n <= n_layers) made.all.push_back(std::make_unique<CpuBackend>(options));
  if (first_layer > 0) made.runs.push_back({0, 0, first_layer});
  if (placed.n > 0)
    for (LayerRun run : share_layers(placed.rooms, placed.n)) {
      const Gpu& gpu = placed.gpus[run.device];
      made.all.push_back(gpu.plugin->make(gpu.device.index, options));
      run.device = made.all.size() - 1;
      made.runs.push_back(run);
    }
  if (placed.n <= n_layers && (made.runs.empty() || made.runs.back().device != 0))
    made.runs.push_back({0, n_layers, n_layers});
  return made;
}

}  // namespace hrun
