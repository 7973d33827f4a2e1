// SentencePiece BPE: the vocabulary's scores say which neighbours merge first, bytes stand in for
// unknown characters.
//
// The one kind of tokenizer that hrun runs itself: the library's merges are ranked pair by pair, so
// that it cannot say that two pairs with the same join are equals, of which the leftmost goes
// first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hrun {

enum class PieceKind : uint8_t {
  ignored,
  merged,
  whole /* found in the text first */,
  control /* likewise, where asked for */
};

struct Piece {
  std::string text;
  float score;
  PieceKind kind;
};

class SentencePiece {
 public:
  // bytes: the id that stands for each byte of a character in no piece.
  SentencePiece(std::vector<Piece> pieces, const std::array<int32_t, 256>& bytes, bool adds_space);
  SentencePiece(const SentencePiece&) = delete;  // the tables point into the pieces
  SentencePiece& operator=(const SentencePiece&) = delete;

  // Returns the ids of well-formed UTF-8.  with_control: text that reads like a control token is
  // one.
  std::vector<int32_t> encode(std::string_view text, bool with_control) const;

 private:
  struct Symbol;
  class Joins;
  // Strings that are cut out of a text: the longest wins.
  struct WholePieces {
    std::unordered_map<std::string_view, int32_t> ids;
    std::array<std::vector<size_t>, 256> lengths;  // by first byte, longest first
    void insert(std::string_view text, int32_t id);
    int32_t at_start_of(std::string_view text) const;  // -1: none
  };

  void fragment(std::string_view text, bool prefix, std::vector<int32_t>& ids) const;
  void merge(std::string_view text, std::vector<int32_t>& ids) const;
  int32_t find(std::string_view text) const;

  std::vector<Piece> pieces_;
  std::array<int32_t, 256> bytes_;
  bool adds_space_;
  size_t longest_ = 0;
  std::unordered_map<std::string_view, int32_t> merged_;
  WholePieces user_, user_and_control_;
};

}  // namespace hrun
