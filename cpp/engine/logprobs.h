// Log-probabilities from raw logits, in double, the same on every machine.
#pragma once

#include <cstdint>
#include <span>

#include "engine/request.h"

namespace hrun {

// log(sum(exp(logits))).
double log_sum_exp(std::span<const float> logits);

// The log-probability of a token, and those of the n_top likeliest tokens.
TokenLogprob token_logprob(std::span<const float> logits, int32_t token, int64_t n_top);

}  // namespace hrun
