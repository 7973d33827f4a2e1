// I8, I16, I32, I64, F64: plain numbers that some files hold beside their weights.  Rounded to fp32
// where it is narrower.
#pragma once

#include <cstring>

#include "formats/format.h"

namespace hrun {

template <class Number>
struct PlainNumber : WholeBlocks<1, sizeof(Number)> {
  static constexpr InputForm kInputForm = InputForm::kFloat;
  static HRUN_HD void decode(const uint8_t* value, float* out) {
    Number v;
    memcpy(&v, value, sizeof v);
    *out = static_cast<float>(v);
  }
};

struct I8 : PlainNumber<int8_t> {
  static constexpr FormatId kId = 24;
  static constexpr std::string_view kName = "i8";
};
struct I16 : PlainNumber<int16_t> {
  static constexpr FormatId kId = 25;
  static constexpr std::string_view kName = "i16";
};
struct I32 : PlainNumber<int32_t> {
  static constexpr FormatId kId = 26;
  static constexpr std::string_view kName = "i32";
};
struct I64 : PlainNumber<int64_t> {
  static constexpr FormatId kId = 27;
  static constexpr std::string_view kName = "i64";
};
struct F64 : PlainNumber<double> {
  static constexpr FormatId kId = 28;
  static constexpr std::string_view kName = "f64";
};

}  // namespace hrun
