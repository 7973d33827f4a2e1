// SipHash (Aumasson, Bernstein 2012): a keyed hash of bytes whose author cannot make them collide.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>

namespace hrun {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};

// kRounds per word of the message, kLastRounds at the end.
template <int kRounds, int kLastRounds>
class SipHashOf {
 public:
  // A fresh secret key; hash values must not reach any result.
  SipHashOf() {
    std::random_device random;
    const auto word = [&] { return (uint64_t{random()} << 32) | random(); };
    k0_ = word();
    k1_ = word();
  }
  SipHashOf(uint64_t k0, uint64_t k1) : k0_(k0), k1_(k1) {}

  uint64_t operator()(std::string_view bytes) const {
    State v = start();
    absorb(v, bytes);
    return finish(v, 0xff);
  }

  // The variant with 128 bits.
  Hash128 hash128(std::string_view bytes) const {
    State v = start();
    v[1] ^= 0xee;
    absorb(v, bytes);
    Hash128 hash;
    hash.low = finish(v, 0xee);
    v[1] ^= 0xdd;
    hash.high = finish(v, 0);
    return hash;
  }

 private:
  struct State {
    uint64_t v[4];
    uint64_t& operator[](int i) { return v[i]; }
  };

  State start() const {
    return {{k0_ ^ 0x736f6d6570736575ull, k1_ ^ 0x646f72616e646f6dull, k0_ ^ 0x6c7967656e657261ull,
             k1_ ^ 0x7465646279746573ull}};
  }

  static void absorb(State& v, std::string_view bytes) {
    const uint64_t length = static_cast<uint64_t>(bytes.size()) << 56;
    const auto word = [&](uint64_t m) {
      v[3] ^= m;
      for (int i = 0; i < kRounds; ++i) round(v);
      v[0] ^= m;
    };
    for (; bytes.size() >= 8; bytes.remove_prefix(8)) {
      uint64_t m;
      std::memcpy(&m, bytes.data(), 8);
      word(m);
    }
    uint64_t tail = 0;
    if (!bytes.empty()) std::memcpy(&tail, bytes.data(), bytes.size());
    word(length | tail);
  }

  static uint64_t finish(State& v, uint64_t mark) {
    v[2] ^= mark;
    for (int i = 0; i < kLastRounds; ++i) round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
  }

  static void round(State& v) {
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

using SipHash = SipHashOf<1, 3>;

}  // namespace hrun
