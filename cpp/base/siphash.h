// SipHash-1-3 (Aumasson, Bernstein 2012): a hash of text from a file that the file's author cannot
// make collide.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>

namespace hrun {

class SipHash {
 public:
  // A fresh secret key; hash values must not reach any result.
  SipHash() {
    std::random_device random;
    const auto word = [&] { return (uint64_t{random()} << 32) | random(); };
    k0_ = word();
    k1_ = word();
  }

  uint64_t operator()(std::string_view text) const {
    uint64_t v[4] = {k0_ ^ 0x736f6d6570736575ull, k1_ ^ 0x646f72616e646f6dull,
                     k0_ ^ 0x6c7967656e657261ull, k1_ ^ 0x7465646279746573ull};
    const uint64_t length = static_cast<uint64_t>(text.size()) << 56;
    const auto absorb = [&](uint64_t m) {
      v[3] ^= m;
      round(v);
      v[0] ^= m;
    };
    for (; text.size() >= 8; text.remove_prefix(8)) {
      uint64_t m;
      std::memcpy(&m, text.data(), 8);
      absorb(m);
    }
    uint64_t tail = 0;
    if (!text.empty()) std::memcpy(&tail, text.data(), text.size());
    absorb(length | tail);
    v[2] ^= 0xff;
    for (int i = 0; i < 3; ++i) round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
  }

 private:
  static void round(uint64_t (&v)[4]) {
    v[0] += v[1];
    v[1] = std::rotl(v[1], 13);
    v[1] ^= v[0];
    v[0] = std::rotl(v[0], 32);
    v[2] += v[3];
    v[3] = std::rotl(v[3], 16);
    v[3] ^= v[2];
    v[0] += v[3];
    v[3] = std::rotl(v[3], 21);
    v[3] ^= v[0];
    v[2] += v[1];
    v[1] = std::rotl(v[1], 17);
    v[1] ^= v[2];
    v[2] = std::rotl(v[2], 32);
  }

  uint64_t k0_, k1_;
};

}  // namespace hrun
