#include "formats/rtq.h"

#include <array>

namespace hrun {
namespace {

template <class R>
const TrellisCode& trellis_code() {
  static const auto kLevels = [] {
    std::array<float, size_t{1} << (R::kCodeBits * R::kMemory)> levels{};
    for (uint32_t i = 0; i < levels.size(); ++i)  // the oldest code 0, so that `newest xor oldest` is the newest
      levels[i] = static_cast<float>(R::level(i & ((1u << R::kCodeBits) - 1), i >> R::kCodeBits));
    return levels;
  }();
  static const TrellisCode kCode{R::kCodeBits, R::kMemory, kLevels.data(), R::Tables::kLevelRms,
                                 R::Tables::kGaussianError};
  return kCode;
}

}  // namespace

template <int k, uint32_t kNumber>
void Rtq<k, kNumber>::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(trellis_code<Rtq>(), w, cols, out);
}

template struct Rtq<3, 3>;

}  // namespace hrun
