// The virtual architecture that the kernels which run on this device were compiled for.
#pragma once

namespace hrun::gpu {

// version: 90 for 9.0.  Returns the runtime's error code: there is none for the device, say.
int code_version(int& version);

}  // namespace hrun::gpu
