// The libraries with backends that hrun knows, and how they are found.
#pragma once

#include <span>
#include <string>

#include "backend/plugin.h"

namespace hrun {

// A library: the file that an environment variable names, else the one beside the library that this
// code is in, else the one of a Python package that is installed beside hrun.
struct PluginFile {
  const char* kind;         // its devices are this name and a number: CUDA0, CUDA1, ...
  const char* file;         // "libhrun_cuda.so"
  const char* environment;  // "HRUN_CUDA_LIBRARY"
  std::span<const char* const> packages;  // "hrun_cuda13", ...: the best first
  const char* compiler;                   // what an install needs to have it: "nvcc"
};

std::span<const PluginFile> plugin_files();

// Null, with the reason, when the library cannot be opened.  It stays open.
const BackendPlugin* open_plugin(const PluginFile& file, std::string& reason);

}  // namespace hrun
