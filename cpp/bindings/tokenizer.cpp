// SentencePiece BPE; every other tokenizer is the `tokenizers` library's.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "base/error.h"
#include "base/utf8.h"
#include "bindings/gil.h"
#include "tokenizer/sentencepiece.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {

void init_tokenizer(nb::module_& m) {
  nb::enum_<PieceKind>(m, "PieceKind",
                       "How a piece of a SentencePiece vocabulary is found in a text.")
      .value("ignored", PieceKind::ignored)
      .value("merged", PieceKind::merged)
      .value("whole", PieceKind::whole)
      .value("control", PieceKind::control);
  nb::class_<SentencePiece>(
      m, "SentencePiece",
      "Merges by score, the leftmost of equals first; may be used from several threads.")
      .def(
          "__init__",
          [](SentencePiece* self, const std::vector<std::string>& texts,
             const std::vector<float>& scores, const std::vector<PieceKind>& kinds,
             const std::array<int32_t, 256>& bytes, bool adds_space) {
            if (scores.size() != texts.size() || kinds.size() != texts.size())
              throw ArgumentError("{} pieces with {} scores and {} kinds", texts.size(),
                                  scores.size(), kinds.size());
            std::vector<Piece> pieces;
            for (size_t i = 0; i < texts.size(); ++i) {
              if (kinds[i] != PieceKind::ignored && !is_utf8(texts[i]))
                throw ArgumentError("piece {} is no UTF-8", i);
              pieces.push_back({texts[i], scores[i], kinds[i]});
            }
            new (self) SentencePiece(std::move(pieces), bytes, adds_space);
          },
          "texts"_a, "scores"_a, "kinds"_a, "bytes"_a, "adds_space"_a,
          "bytes: for each byte the id that stands for it.  adds_space: before a text and behind "
          "control tokens.")
      .def(
          "encode",
          [](const SentencePiece& self, std::string_view text, bool with_control) {
            const WithoutGil release;
            return self.encode(text, with_control);
          },
          "text"_a, "with_control"_a,
          "Ids of the text; with_control: text that reads like a control token is one.");
}

}  // namespace hrun::bindings
