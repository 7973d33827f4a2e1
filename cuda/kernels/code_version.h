// The virtual architecture that the kernels which run on this device were compiled for.
#pragma once

namespace hrun::gpu {

struct CodeVersion {
  int architecture = 0;     // 90 for 9.0
  bool warpgroups = false;  // is it 9.0a, whose code has products of warpgroups?
};
// Returns the runtime's error code: there is no code for the device, say.
int code_version(CodeVersion& version);

}  // namespace hrun::gpu
