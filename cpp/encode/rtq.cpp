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
    std::vector<float> values(size_t{1} << (R::kCodeBits * (R::kMemory + 1)));
    for (uint32_t window = 0; window < values.size(); ++window)
      values[window] =
          static_cast<float>(R::level(window & ((1u << R::kCodeBits) - 1), window >> R::kCodeBits));
    return new TrellisCode(R::kCodeBits, R::kMemory, std::move(values), R::Tables::kLevelRms,
                           R::Tables::kGaussianError);
  }();
  return kCode;
}

}  // namespace

const TrellisCode& rtq2_trellis() { return trellis_code<RTQ2>(); }
const TrellisCode& rtq3_trellis() { return trellis_code<RTQ3>(); }
const TrellisCode& rtq4_trellis() { return trellis_code<RTQ4>(); }
const TrellisCode& rtq5_trellis() { return trellis_code<RTQ5>(); }

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

}  // namespace hrun
