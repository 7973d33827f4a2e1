// Sizes that all kernels and their callers agree on.
#pragma once

#include "base/kv_page.h"

namespace hrun {

inline constexpr int kLanes = 16;       // of every float reduction, in every tier
inline constexpr int kPanelRows = 16;   // weight rows per call of a matmul kernel
inline constexpr int kDecodedRows = 4;  // weight rows that matmul over decoded rows holds at a time
inline constexpr int kAttentionBlock =
    kPagePositions;  // positions per step of the online softmax, aligned to position 0

}  // namespace hrun
