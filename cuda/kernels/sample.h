// From logits to a token without leaving the device: the chain of runtime/samplers.h, step by step and in its order.
#pragma once

#include <cstdint>

#include "cuda/gpu.h"

namespace hrun::gpu {

// What bias and penalties do to the logit of one token: x += bias; x = x > 0 ? x / repeat : x * repeat; x -= subtract.
struct SampleEdit {
  int32_t token;
  float bias = 0;
  float repeat = 1;
  float subtract = 0;  // count * frequency + presence
};

struct SampleSettings {
  float temperature = 0.8f;  // 0: the likeliest token, ties to the lower id
  int64_t top_k = 40;        // 0: all
  double top_p = 0.95;       // 1: all
  double min_p = 0.05;       // 0: all
};

enum class SampleStatus : int32_t { ok, not_finite, none_possible };  // a logit is NaN or infinity; all are -infinity

struct SampleResult {
  int32_t token;  // 0 unless ok, so that a step that is already under way reads a row that exists
  SampleStatus status;
};

// logits [n_vocab], edits (each token once, in the vocabulary) and their number, the generator (Pcg32::state) and the result are
// in device memory; edits and n_edits may be null.  The generator advances as the CPU's does: once per call, not at all at
// temperature 0.
//
// The token is the CPU sampler's for the same generator: candidates are ordered by falling logit, then by id, and up to 1024
// of them are added up in that order in double, bit for bit.  Where more than 1024 can matter (top_k 0 or larger) sums over
// the vocabulary are made in another, fixed order, so that a draw within 1e-13 of a border may fall on its other side.
size_t sample_scratch_bytes(int64_t n_vocab);
void sample(Gpu& gpu, const float* logits, int64_t n_vocab, const SampleSettings& settings, const SampleEdit* edits, const int32_t* n_edits,
            uint64_t* generator, SampleResult* result, void* scratch);

}  // namespace hrun::gpu
