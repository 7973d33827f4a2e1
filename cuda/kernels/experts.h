// The choice of experts on the device: which ones each token uses, and the rows of each expert.
#pragma once

#include "backend/experts.h"
#include "cuda/gpu.h"
#include "cuda/kernels/slices.h"

namespace hrun::gpu {

// The limits of the kernels.
inline constexpr int kMostExperts = 1024, kMostExpertsUsed = 32, kMostExpertGroups = 32;

// A slot is a pair of token and expert: n_used for each token, in the order of its choice where
// they are counted by token, and in the order of the experts where they are rows of matrices.  All
// on the device.
struct ExpertLists {
  int32_t* chosen;     // by token: the expert
  float* weights;      // by token
  int32_t* slot_of;    // by token: the row
  int32_t* token_of;   // by row
  int32_t* expert_of;  // by row
  SliceRun* few;       // the runs of SliceTask
  SliceRun* many;
  SliceTask task;  // with both
};

size_t expert_lists_bytes(int64_t n_tokens, int n_experts, int n_used);
// Shares out memory of that size.
ExpertLists expert_lists(void* memory, int64_t n_tokens, int n_experts, int n_used);

// The bits of the weights, and the order, are the host's (model/blocks/experts.cpp).  correction,
// factor: [n_experts] on the device, or null.
void choose_experts(Gpu& gpu, const ExpertRule& rule, const float* correction, const float* factor,
                    FloatView logits, const ExpertLists& lists);

}  // namespace hrun::gpu
