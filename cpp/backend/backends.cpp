#include "backend/backends.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/error.h"
#include "cpu/backend/cpu_backend.h"

namespace hrun {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return out;
}

std::string device_names(std::string& reason) {
  std::string names = "auto";
  for (const DeviceDescription& d : list_devices(reason)) names += ", " + d.name;
  return names;
}

// "cuda", "cuda1", "CUDA1" or "cuda:1" -> 1; -1 if it is no such name.
int cuda_number(std::string_view name) {
  if (!name.starts_with("cuda")) return -1;
  name.remove_prefix(4);
  if (name.empty()) return 0;
  if (name.front() == ':') name.remove_prefix(1);
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? number : -1;
}

}  // namespace

std::vector<DeviceDescription> list_devices(std::string& reason) {
  std::vector<DeviceDescription> all;
  if (const BackendPlugin* plugin = cuda_plugin(reason)) all = plugin->devices(reason);
  all.push_back(CpuBackend::device());
  return all;
}

DevicePeaks measure_device(const std::string& name) {
  std::string reason;
  const int number = cuda_number(lower(name));
  const BackendPlugin* const plugin = number < 0 ? nullptr : cuda_plugin(reason);
  if (!plugin)
    throw DeviceError("device '{}' cannot be measured: {}", printable(name),
                      reason.empty() ? "it is no GPU" : reason);
  return plugin->measure(number);
}

Backends make_backends(const BackendOptions& options, int64_t n_layers,
                       const std::function<int64_t(const DeviceRoom&)>& fit) {
  Backends made;
  const char* const preferred = std::getenv("HRUN_DEVICE");
  const std::string asked = options.device == "auto" && preferred && *preferred ? preferred
                                                                                : options.device,
                    name = lower(asked);
  const int wanted = cuda_number(name);
  const bool any = name == "auto";
  if (!any && name != "cpu" && name != "none" && wanted < 0) {
    std::string reason;
    const std::string names = device_names(reason);
    throw DeviceError("there is no device '{}'; possible: {}{}{}", printable(asked), names,
                      reason.empty() ? "" : "; no GPU: ", reason);
  }
  int64_t n_offloaded =
      options.n_gpu_layers < 0 ? n_layers + 1 : std::min(options.n_gpu_layers, n_layers + 1);
  if (wanted >= 0 || (any && n_offloaded > 0)) {
    std::string reason;
    const BackendPlugin* const plugin = cuda_plugin(reason);
    const int number = std::max(wanted, 0);
    const std::vector<DeviceDescription> devices =
        plugin ? plugin->devices(reason) : std::vector<DeviceDescription>();
    // Cards that are too old or in use are not listed: a place in the list is no number.
    const auto card =
        any ? devices.begin()
            : std::find_if(devices.begin(), devices.end(), [&](const DeviceDescription& d) {
                return cuda_number(lower(d.name)) == number;
              });
    const bool present = card != devices.end();
    if (present && options.n_gpu_layers < 0 && fit) {
      n_offloaded = fit({card->free_bytes, plugin->weight_bytes});
      if (n_offloaded <= n_layers)
        made.warning = format(
            "{} of {} layers fit in the {} MiB that {} has free; the others, and the head, are on "
            "the CPU",
            n_offloaded, n_layers, card->free_bytes >> 20, card->name);
    }
    if (present && n_offloaded > 0)
      made.accelerator = plugin->make(cuda_number(lower(card->name)), options);
    else if (wanted >= 0 && !present) {
      const std::string names = device_names(reason);
      throw DeviceError("device '{}' cannot be had{}{}; possible: {}", printable(asked),
                        reason.empty() ? "" : ": ", reason, names);
    } else if (options.n_gpu_layers > 0)
      made.warning = "no layers go to a GPU: " + reason;
  }
  made.first_layer = made.accelerator ? std::max<int64_t>(n_layers - n_offloaded, 0) : n_layers;
  made.head = made.accelerator && n_offloaded > n_layers;
  if (made.first_layer > 0 || !made.head) made.cpu = std::make_unique<CpuBackend>(options);
  return made;
}

}  // namespace hrun
