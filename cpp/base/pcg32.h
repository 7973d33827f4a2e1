// The random numbers of sampling: the same on every machine and device.
#pragma once

#include <cstdint>

#include "base/host_device.h"

namespace hrun {

// PCG32 (O'Neill 2014), XSH-RR output.
struct Pcg32 {
  uint64_t state = 0;

  // PCG32's seeding: step, add, step (each a uniform() here).
  static HRUN_HD Pcg32 seeded(uint64_t seed) {
    Pcg32 generator;
    generator.uniform();
    generator.state += seed;
    generator.uniform();
    return generator;
  }

  // [0, 1), 53 bits of two outputs.
  HRUN_HD double uniform() {
    const uint64_t high = next();
    return static_cast<double>((high << 32 | next()) >> 11) * 0x1p-53;
  }

 private:
  HRUN_HD uint32_t next() {
    const uint64_t old = state;
    state = old * 6364136223846793005ull + 1442695040888963407ull;
    const auto shifted = static_cast<uint32_t>(((old >> 18u) ^ old) >> 27u);
    const auto rotation = static_cast<uint32_t>(old >> 59u);
    return (shifted >> rotation) | (shifted << ((32 - rotation) & 31));
  }
};

}  // namespace hrun
