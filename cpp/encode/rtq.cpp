// RTQ: the trellis codes of the rotated formats, from the formats' own tables.
#include "formats/rtq.h"

#include <utility>
#include <vector>

#include "encode/encoders.h"
#include "encode/trellis.h"

namespace hrun {
namespace {

template <class R>
const TrellisCode& trellis_code() {
  // Never destroyed: at exit another thread may still use it.
  static const TrellisCode& kCode = *[] {
    constexpr int k = R::kCodeBits, kStateBits = k - R::kFreeBits;
    constexpr uint32_t kWindows = 1u << (kStateBits * (R::kMemory + 1));
    std::vector<float> values;
    for (uint32_t variant = 0; variant < 1u << R::kFreeBits; ++variant)
      for (uint32_t window = 0; window < kWindows; ++window) {
        uint32_t codes = variant << kStateBits;  // of k bits each, the newest in the lowest
        for (int lag = 0; lag <= R::kMemory; ++lag)
          codes |= (window >> (kStateBits * lag) & ((1u << kStateBits) - 1)) << (k * lag);
        values.push_back(static_cast<float>(R::level(codes & ((1u << k) - 1), codes >> k)));
      }
    return new TrellisCode(kStateBits, R::kMemory, std::move(values), R::Tables::kLevelRms,
                           R::Tables::kGaussianError, R::kFreeBits);
  }();
  return kCode;
}

}  // namespace

const TrellisCode& rtq2_trellis() { return trellis_code<RTQ2>(); }
const TrellisCode& rtq3_trellis() { return trellis_code<RTQ3>(); }
const TrellisCode& rtq4_trellis() { return trellis_code<RTQ4>(); }
const TrellisCode& rtq5_trellis() { return trellis_code<RTQ5>(); }
const TrellisCode& rtq6_trellis() { return trellis_code<RTQ6>(); }

// Importance is not used: every weight of a block counts alike.
void encode_rtq2(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(rtq2_trellis(), w, cols, out);
}
void encode_rtq3(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(rtq3_trellis(), w, cols, out);
}
void encode_rtq4(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(rtq4_trellis(), w, cols, out);
}
void encode_rtq5(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(rtq5_trellis(), w, cols, out);
}
void encode_rtq6(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(rtq6_trellis(), w, cols, out);
}

}  // namespace hrun
