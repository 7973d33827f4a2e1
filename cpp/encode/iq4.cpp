// Encoders of IQ4_NL and IQ4_XS.
#include "formats/iq4.h"

#include <cstring>

#include "encode/encoders.h"
#include "encode/scale_search.h"

namespace hrun {
namespace {

struct Iq4Levels {
  static constexpr float kReach = 127;
  static constexpr bool kMirrored = true;
  static constexpr float kFirstTrial = 0.8f, kLastTrial = 1.1f;
  static constexpr int kTrials = 16;
  // Counts the midpoints below each value: branch-free, and vectorizable where a search tree is
  // not.
  template <int n>
  static void nearest(const float* x, const float*, float inverse, float* q) {
    const int8_t* levels = iq4_levels();
    constexpr int kLanes = 8;
    for (int first = 0; first < n; first += kLanes) {
      float v[kLanes], level[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = x[first + i] * inverse;
      for (int i = 0; i < kLanes; ++i) level[i] = levels[0];
      for (int k = 1; k < 16; ++k) {
        const float middle = 0.5f * static_cast<float>(levels[k - 1] + levels[k]);
        const auto gap = static_cast<float>(levels[k] - levels[k - 1]);
        for (int i = 0; i < kLanes; ++i) level[i] += v[i] > middle ? gap : 0.0f;
      }
      for (int i = 0; i < kLanes; ++i) q[first + i] = level[i];
    }
  }
};

// Codes hold levels; this gives their 4-bit indices, packed as the formats want.
void pack_iq4_codes(const int8_t* codes, uint8_t* bytes) {
  const int8_t* levels = iq4_levels();
  const auto index = [&](int8_t level) {
    return std::lower_bound(levels, levels + 16, level) - levels;
  };
  for (int i = 0; i < 16; ++i)
    bytes[i] = static_cast<uint8_t>(index(codes[i]) | (index(codes[i + 16]) << 4));
}

}  // namespace

void encode_iq4_nl(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  search::Encoded view;
  for (int64_t b = 0; b < cols; b += 32, out += IQ4_NL::kBlockBytes) {
    search::single<Iq4Levels, 32>(search::Target(w + b, importance ? importance + b : nullptr, 32),
                                  view);
    store_fp16(out, view.scale);
    pack_iq4_codes(view.codes.data(), out + 2);
  }
}

void encode_iq4_xs(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  search::Encoded view;
  for (int64_t b = 0; b < cols; b += 256, out += IQ4_XS::kBlockBytes) {
    search::scaled<Iq4Levels, search::ScaleSet<-32, 31, 1>, 32>(
        search::Target(w + b, importance ? importance + b : nullptr, 256), view);
    memset(out, 0, 8);
    store_fp16(out, view.scale);
    for (size_t g = 0; g < 8; ++g) {
      const int s = view.group_scale[g] + 32;
      out[2 + g / 4] = static_cast<uint8_t>(out[2 + g / 4] | ((s >> 4) << (2 * (g % 4))));
      out[4 + g / 2] = static_cast<uint8_t>(out[4 + g / 2] | ((s & 15) << (4 * (g % 2))));
      pack_iq4_codes(&view.codes[32 * g], out + 8 + 16 * g);
    }
  }
}

}  // namespace hrun
