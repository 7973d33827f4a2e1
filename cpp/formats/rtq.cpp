#include "formats/rtq.h"

#include <array>

namespace hrun {
namespace {

template <class R>
const TrellisCode& trellis_code() {
  struct alignas(32) Values {
    std::array<float, size_t{1} << R::kWindowBits> of_window;
    Values() {
      for (uint32_t w = 0; w < of_window.size(); ++w) of_window[w] = static_cast<float>(R::value(w));
    }
  };
  static const Values kValues;
  static const TrellisCode kCode{R::kCodeBits, R::kWindowBits, kValues.of_window.data(), R::Tables::kRms};
  return kCode;
}

}  // namespace

template <int k, uint32_t kNumber>
void Rtq<k, kNumber>::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  encode_trellis_row(trellis_code<Rtq>(), w, cols, out);
}

template struct Rtq<3, 3>;

}  // namespace hrun
