// The libraries with backends that hrun knows, and how they are found.
#pragma once

#include <span>
#include <string>

#include "backend/plugin.h"

namespace hrun {

// A library beside the one that this code is in, or the file that an environment variable names.
struct PluginFile {
  const char* kind;         // its devices are this name and a number: CUDA0, CUDA1, ...
  const char* file;         // "libhrun_cuda.so"
  const char* environment;  // "HRUN_CUDA_LIBRARY"
  const char* compiler;     // what an install needs to have it: "nvcc"
};

std::span<const PluginFile> plugin_files();

// Null, with the reason, when the library cannot be opened.  It stays open.
const BackendPlugin* open_plugin(const PluginFile& file, std::string& reason);

}  // namespace hrun
