// Says which tokens of the vocabulary may be drawn: a bit for each token, in words of 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace hrun {

// Token t is bit t % 32 of word t / 32.  No words: every token is allowed.
using TokenMask = std::span<const uint32_t>;

constexpr size_t mask_words(size_t n_vocab) { return (n_vocab + 31) / 32; }

inline bool allows(TokenMask mask, size_t token) {
  return mask.empty() || ((mask[token / 32] >> (token % 32)) & 1) != 0;
}

// The bits of tokens first to first + 15; first is a multiple of 16.
inline uint32_t allowed_of_16(TokenMask mask, size_t first) {
  return mask.empty() ? 0xffff : (mask[first / 32] >> (first % 32)) & 0xffff;
}

}  // namespace hrun
