#include "gguf/ggml_ids.h"

#include <string_view>

namespace hrun::gguf {
namespace {

struct Row {
  uint32_t id;
  std::string_view name;
  bool removed;
};

// GGML's numbering as published; what hrun reads is in formats/list.h and looked up first.
constexpr Row kRows[] = {
    {0, "f32", false},        {1, "f16", false},        {2, "q4_0", false},
    {3, "q4_1", false},       {4, "q4_2", true},        {5, "q4_3", true},
    {6, "q5_0", false},       {7, "q5_1", false},       {8, "q8_0", false},
    {9, "q8_1", false},       {10, "q2_k", false},      {11, "q3_k", false},
    {12, "q4_k", false},      {13, "q5_k", false},      {14, "q6_k", false},
    {15, "q8_k", false},      {16, "iq2_xxs", false},   {17, "iq2_xs", false},
    {18, "iq3_xxs", false},   {19, "iq1_s", false},     {20, "iq4_nl", false},
    {21, "iq3_s", false},     {22, "iq2_s", false},     {23, "iq4_xs", false},
    {24, "i8", false},        {25, "i16", false},       {26, "i32", false},
    {27, "i64", false},       {28, "f64", false},       {29, "iq1_m", false},
    {30, "bf16", false},      {31, "q4_0_4_4", true},   {32, "q4_0_4_8", true},
    {33, "q4_0_8_8", true},   {34, "tq1_0", false},     {35, "tq2_0", false},
    {36, "iq4_nl_4_4", true}, {37, "iq4_nl_4_8", true}, {38, "iq4_nl_8_8", true},
    {39, "mxfp4", false},     {40, "nvfp4", false},     {41, "q1_0", false},
    {42, "q2_0", false},
};

}  // namespace

UnreadFormat find_unread_format(uint32_t id) {
  for (const Row& row : kRows)
    if (row.id == id)
      return {row.removed ? UnreadFormat::Kind::removed : UnreadFormat::Kind::known,
              std::string(row.name)};
  return {UnreadFormat::Kind::undefined, {}};
}

}  // namespace hrun::gguf
