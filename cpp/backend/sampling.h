// A backend needs these to draw a token itself; engine/samplers.h says what they mean.
#pragma once

#include <cstdint>

namespace hrun {

// Bias and penalties change the logit of one token like this: x += bias; x = x > 0 ? x / repeat : x
// * repeat; x -= subtract.
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

enum class SampleStatus : int32_t {
  ok,
  not_finite,
  none_possible
};  // a logit is NaN or infinity; all are -infinity

struct SampleResult {
  int32_t token;  // 0 unless ok, so that a step that is already under way reads a row that exists
  SampleStatus status;
};

}  // namespace hrun
