#include "formats/rtq.h"

#include <utility>
#include <vector>

namespace hrun {
namespace {

template <class R>
const TrellisCode& trellis_code() {
  static const TrellisCode kCode = [] {
    std::vector<float> values(size_t{1} << (R::kCodeBits * (R::kMemory + 1)));
    for (uint32_t window = 0; window < values.size(); ++window)
      values[window] =
          static_cast<float>(R::level(window & ((1u << R::kCodeBits) - 1), window >> R::kCodeBits));
    return TrellisCode(R::kCodeBits, R::kMemory, std::move(values), R::Tables::kLevelRms,
                       R::Tables::kGaussianError);
  }();
  return kCode;
}

}  // namespace

template <int k, uint32_t kNumber>
void Rtq<k, kNumber>::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(trellis_code<Rtq>(), w, cols, out);
}

template <int k, uint32_t kNumber>
const TrellisCode& Rtq<k, kNumber>::trellis() {
  return trellis_code<Rtq>();
}

template struct Rtq<2, 2>;
template struct Rtq<3, 3>;
template struct Rtq<4, 4>;

}  // namespace hrun
