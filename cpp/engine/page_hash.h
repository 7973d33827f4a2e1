// A keyed hash stands for a page's tokens and all tokens before them; it is chained from page to
// page.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "base/kv_page.h"
#include "base/siphash.h"

namespace hrun {

class PageHasher {
 public:
  // A fresh secret key; hash values must not reach any result.
  explicit PageHasher(uint64_t mask = ~uint64_t{0}) : mask_(mask) {}

  // The hash before the first page: only sequences of equal salt share pages.
  Hash128 root(std::string_view salt) const { return masked(salt); }
  Hash128 next(const Hash128& before, std::span<const int32_t> tokens) const {
    char bytes[sizeof(Hash128) + kPagePositions * sizeof(int32_t)];
    std::memcpy(bytes, &before, sizeof before);
    std::memcpy(bytes + sizeof before, tokens.data(), tokens.size_bytes());
    return masked({bytes, sizeof before + tokens.size_bytes()});
  }
  // The hashes of the full pages of a prompt, at most `at_most` of them.
  std::vector<Hash128> chain(std::span<const int32_t> tokens, std::string_view salt,
                             size_t at_most) const {
    std::vector<Hash128> hashes;
    Hash128 before = root(salt);
    constexpr auto n = static_cast<size_t>(kPagePositions);
    for (; tokens.size() >= n && hashes.size() < at_most; tokens = tokens.subspan(n))
      hashes.push_back(before = next(before, tokens.first(n)));
    return hashes;
  }

 private:
  Hash128 masked(std::string_view bytes) const {
    const Hash128 h = hasher_.hash128(bytes);
    return {h.low & mask_, h.high & mask_};
  }

  SipHash hasher_;
  uint64_t mask_;
};

}  // namespace hrun
