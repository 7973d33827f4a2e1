// ITQ3_S: the IQ3_S block of the rotated weights (no signs), after the public fork of that name.
//
// Rows are multiples of 256.  The rotation spreads every input column evenly over its block, so
// that a diagonal importance becomes a constant there and is ignored; the scale search is flat and
// least squares.
#pragma once

#include "formats/iq3.h"

namespace hrun {

struct ITQ3_S : WholeBlocks<256, 110> {
  static constexpr FormatId kId = kOwnFormats + 1;
  static constexpr std::string_view kName = "itq3_s";
  static constexpr InputForm kInputForm = InputForm::kRotated;
  static constexpr bool kHasOffset = false;
  static HRUN_HD void unpack(const uint8_t* block, int n, IntBlock& out) {
    IQ3_S::unpack(block, n, out);
  }
};

}  // namespace hrun
