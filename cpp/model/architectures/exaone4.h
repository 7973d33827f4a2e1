// EXAONE 4: norms after the blocks, and norms of the heads of queries and keys.  The large model
// has windows in three of four layers and rotation in these layers alone.
#pragma once

#include "model/architectures/olmo2.h"

namespace hrun::architecture {

inline constexpr std::string_view kExaone4Classes[] = {"Exaone4ForCausalLM"};

inline constexpr auto kExaone4Tensors =
    join(kEmbeddingAndHead, kRopeFactors, kAttention, kHeadNorms, kNormsAfter, kFeedForward);

inline constexpr ModelDescription kExaone4 = {
    .name = "exaone4",
    .hf_classes = kExaone4Classes,
    .rope = RopeStyle::halves,
    .tensors = kExaone4Tensors,
    .config = kAlternatingWindowKeys,
    .window_period = 4,
    .rope_in_windows = true,
};

}  // namespace hrun::architecture
