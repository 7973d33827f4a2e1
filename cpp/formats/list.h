// THE list of weight formats.  Adding a format is its header and its name here.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "formats/floats.h"
#include "formats/format.h"
#include "formats/fp4.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/itq3_s.h"
#include "formats/k_quants.h"
#include "formats/legacy.h"
#include "formats/low_bits.h"
#include "formats/numbers.h"
#include "formats/rotation.h"
#include "formats/rtq.h"

namespace hrun {

template <AnyFormat... F>
struct FormatList {
  static constexpr size_t kSize = sizeof...(F);

  // Calls f.template operator()<Format>() for the format with this id; false if there is none.
  template <class Function>
  static constexpr bool visit(FormatId id, Function&& f) {
    return ((F::kId == id && (f.template operator()<F>(), true)) || ...);
  }
  template <class Function>
  static constexpr void for_each(Function&& f) {
    (f.template operator()<F>(), ...);
  }
};

using Formats =
    FormatList<F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL,
               IQ4_XS, IQ3_XXS, IQ3_S, IQ2_XXS, IQ2_XS, IQ2_S, IQ1_S, IQ1_M, TQ1_0, TQ2_0, Q1_0,
               Q2_0, MXFP4, NVFP4, I8, I16, I32, I64, F64, ITQ3_S, RTQ2, RTQ3, RTQ4, RTQ5, RTQ6>;

std::span<const FormatInfo> formats();
const FormatInfo* find_format(FormatId id);            // null if unknown
const FormatInfo* find_format(std::string_view name);  // case-insensitive; null if unknown
std::string format_names();                            // "f32, f16, ..." for messages

}  // namespace hrun
