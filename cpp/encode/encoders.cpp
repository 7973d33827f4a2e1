#include "encode/encoders.h"

#include "formats/list.h"

namespace hrun {
namespace {

constexpr Encoder kTable[] = {
    {F32::kId, encode_f32, 0x1.fffffep127f},
    {F16::kId, encode_f16},
    {BF16::kId, encode_bf16, 0x1.fep127f},
    {Q4_0::kId, encode_q4_0},
    {Q4_1::kId, encode_q4_1},
    {Q5_0::kId, encode_q5_0},
    {Q5_1::kId, encode_q5_1},
    {Q8_0::kId, encode_q8_0},
    {Q2_K::kId, encode_q2_k},
    {Q3_K::kId, encode_q3_k},
    {Q4_K::kId, encode_q4_k},
    {Q5_K::kId, encode_q5_k},
    {Q6_K::kId, encode_q6_k},
    {IQ4_NL::kId, encode_iq4_nl},
    {IQ4_XS::kId, encode_iq4_xs},
    {IQ3_XXS::kId, encode_iq3_xxs},
    {IQ3_S::kId, encode_iq3_s},
    {ITQ3_S::kId, encode_itq3_s},
    {RTQ2::kId, encode_rtq2, 65504, rtq2_trellis},
    {RTQ3::kId, encode_rtq3, 65504, rtq3_trellis},
    {RTQ4::kId, encode_rtq4, 65504, rtq4_trellis},
    {RTQ5::kId, encode_rtq5, 65504, rtq5_trellis},
    {RTQ6::kId, encode_rtq6, 65504, rtq6_trellis},
};

}  // namespace

std::span<const Encoder> encoders() { return kTable; }

const Encoder* find_encoder(FormatId id) {
  for (const Encoder& e : kTable)
    if (e.format == id) return &e;
  return nullptr;
}

std::string encoder_names() {
  std::string out;
  for (const FormatInfo& f : formats())
    if (find_encoder(f.id)) out += (out.empty() ? "" : ", ") + std::string(f.name);
  return out;
}

}  // namespace hrun
