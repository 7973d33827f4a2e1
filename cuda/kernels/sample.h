// Gets a token from logits without leaving the device: it walks the chain of engine/samplers.h,
// step by step and in its order.
#pragma once

#include <cstdint>

#include "backend/sampling.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// logits [n_vocab], edits (each token once, in the vocabulary) and their number, the generator
// (Pcg32::state) and the result are in device memory; edits and n_edits may be null.  The generator
// advances as the CPU's does: once per call, not at all at temperature 0.
//
// The token is the CPU sampler's for the same generator: candidates are ordered by falling logit,
// then by id, and up to 1024 of them are added up in that order in double, bit for bit.  Where more
// than 1024 can matter (top_k 0 or larger) sums over the vocabulary are made in another, fixed
// order, so that a draw within 1e-13 of a border may fall on its other side.
size_t sample_scratch_bytes(int64_t n_vocab);
void sample(Gpu& gpu, const float* logits, int64_t n_vocab, const SampleSettings& settings,
            const SampleEdit* edits, const int32_t* n_edits, uint64_t* generator,
            SampleResult* result, void* scratch);

}  // namespace hrun::gpu
