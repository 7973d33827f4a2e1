#include "tokenizer/sentencepiece.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <queue>

#include "base/error.h"

namespace hrun {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

size_t character_bytes(char first) {
  const auto byte = static_cast<uint8_t>(first);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

struct Candidate {
  float score;
  int32_t left;
  int32_t piece;  // of the join
  bool operator<(const Candidate& other)
      const {  // the worse: the lower score, of equals the one further right
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

// A part of the text, between its neighbours; symbol i begins with character i.
struct SentencePiece::Symbol {
  uint32_t first, bytes;
  int32_t before, after;  // -1: none
  int32_t piece;          // or, of a character that is no piece, a number below zero that is the
                          // character's own
};

// Remembers the piece that two neighbours join to.  Each pair is looked up by its text once: for
// long pieces in repetitive text, the hashing would else be most of the work.
class SentencePiece::Joins {
 public:
  explicit Joins(const SentencePiece& rules) : rules_(rules), slots_(64) {}

  int32_t find(std::string_view text, const Symbol& left, const Symbol& right) {
    const size_t bytes = size_t{left.bytes} + right.bytes;
    if (bytes > rules_.longest_) return -1;
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(left.piece)} << 32 | static_cast<uint32_t>(right.piece);
    Slot* slot = &place(pair);
    if (slot->used && slot->pair == pair) return slot->join;
    if (2 * ++count_ > slots_.size()) {
      grow();
      slot = &place(pair);
    }
    *slot = {pair, rules_.find(text.substr(left.first, bytes)), true};
    return slot->join;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    int32_t join = -1;
    bool used = false;
  };

  Slot& place(uint64_t pair) {
    const size_t mask = slots_.size() - 1;
    size_t i = (pair * 0x9E3779B97F4A7C15u) >> 32 & mask;
    while (slots_[i].used && slots_[i].pair != pair) i = (i + 1) & mask;
    return slots_[i];
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 4);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.used) place(slot.pair) = slot;
  }

  const SentencePiece& rules_;
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

void SentencePiece::WholePieces::insert(std::string_view text, int32_t id) {
  ids[text] = id;
  std::vector<size_t>& of_byte = lengths[static_cast<uint8_t>(text[0])];
  const auto at = std::lower_bound(of_byte.begin(), of_byte.end(), text.size(), std::greater<>());
  if (at == of_byte.end() || *at != text.size()) of_byte.insert(at, text.size());
}

int32_t SentencePiece::WholePieces::at_start_of(std::string_view text) const {
  for (const size_t length : lengths[static_cast<uint8_t>(text[0])]) {
    if (length > text.size()) continue;
    const auto found = ids.find(text.substr(0, length));
    if (found != ids.end()) return found->second;
  }
  return -1;
}

SentencePiece::SentencePiece(std::vector<Piece> pieces, const std::array<int32_t, 256>& bytes,
                             bool adds_space)
    : pieces_(std::move(pieces)), bytes_(bytes), adds_space_(adds_space) {
  if (pieces_.size() > INT32_MAX)
    throw ArgumentError("a vocabulary of {} pieces, at most {} fit", pieces_.size(), INT32_MAX);
  merged_.reserve(pieces_.size());
  const auto of_kind = [&](PieceKind kind, auto&& use) {
    for (size_t i = 0; i < pieces_.size(); ++i)
      if (pieces_[i].kind == kind && !pieces_[i].text.empty())
        use(std::string_view(pieces_[i].text), static_cast<int32_t>(i));
  };
  const auto join = [&](std::string_view text, int32_t id) {
    merged_[text] = id;
    longest_ = std::max(longest_, text.size());
  };
  for (size_t i = 0; i < pieces_.size(); ++i)
    if (pieces_[i].kind == PieceKind::merged || pieces_[i].kind == PieceKind::whole)
      join(pieces_[i].text, static_cast<int32_t>(i));
  of_kind(PieceKind::whole, [&](std::string_view text, int32_t id) {
    user_.insert(text, id);
    user_and_control_.insert(text, id);
  });
  of_kind(PieceKind::control,
          [&](std::string_view text, int32_t id) { user_and_control_.insert(text, id); });
}

int32_t SentencePiece::find(std::string_view text) const {
  const auto found = merged_.find(text);
  return found == merged_.end() ? -1 : found->second;
}

std::vector<int32_t> SentencePiece::encode(std::string_view text, bool with_control) const {
  const WholePieces& whole = with_control ? user_and_control_ : user_;
  std::vector<int32_t> ids;
  bool prefix = true;  // at the start and after every piece that is cut out, as in llama.cpp
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const int32_t id = whole.at_start_of(text.substr(i));
    if (id < 0) {
      i += character_bytes(text[i]);
      continue;
    }
    fragment(text.substr(start, i - start), prefix, ids);
    ids.push_back(id);
    prefix = true;
    start = i += pieces_[static_cast<size_t>(id)].text.size();
  }
  fragment(text.substr(std::min(start, text.size())), prefix, ids);
  return ids;
}

void SentencePiece::fragment(std::string_view text, bool prefix, std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  std::string marked;
  marked.reserve(text.size() + text.size() / 2 + kSpace.size());
  if (prefix && adds_space_) marked += kSpace;
  for (const char c : text)
    if (c == ' ')
      marked += kSpace;
    else
      marked += c;
  if (marked.size() > INT32_MAX)
    throw ArgumentError("a text of {} bytes, at most {} fit", marked.size(), INT32_MAX);
  merge(marked, ids);
}

// Repeatedly merges the neighbours whose join scores best, the leftmost of equals.
void SentencePiece::merge(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t bytes = std::min(character_bytes(text[i]), text.size() - i);
    int32_t piece = find(text.substr(i, bytes));
    if (piece < 0) {
      uint32_t character = 0;
      for (size_t k = 0; k < bytes; ++k)
        character = character << 8 | static_cast<uint8_t>(text[i + k]);
      piece = static_cast<int32_t>(
          character | 0x80000000u);  // the first of four bytes has its top bit set already
    }
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back(
        {static_cast<uint32_t>(i), static_cast<uint32_t>(bytes), at - 1, at + 1, piece});
    i += bytes;
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;

  Joins joins(*this);
  const auto candidate = [&](int32_t left, Candidate& out) {
    const Symbol& a = symbols[static_cast<size_t>(left)];
    const int32_t piece = joins.find(text, a, symbols[static_cast<size_t>(a.after)]);
    if (piece >= 0) out = {pieces_[static_cast<size_t>(piece)].score, left, piece};
    return piece >= 0;
  };
  std::vector<Candidate> first;
  Candidate next;
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i)
    if (candidate(i, next)) first.push_back(next);
  std::priority_queue<Candidate> candidates(std::less<Candidate>(), std::move(first));
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<size_t>(best.left)];
    if (left.bytes == 0 || left.after < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.after)];
    // Stale if either side has been merged since: then the join has another length.
    if (size_t{left.bytes} + right.bytes != pieces_[static_cast<size_t>(best.piece)].text.size())
      continue;
    left.bytes += right.bytes;
    left.piece = best.piece;
    right.bytes = 0;
    left.after = right.after;
    if (left.after >= 0) {
      symbols[static_cast<size_t>(left.after)].before = best.left;
      if (candidate(best.left, next)) candidates.push(next);
    }
    if (left.before >= 0 && candidate(left.before, next)) candidates.push(next);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].after) {
    const Symbol& symbol = symbols[static_cast<size_t>(i)];
    if (symbol.piece >= 0) {
      ids.push_back(symbol.piece);
      continue;
    }
    for (const char c : text.substr(symbol.first, symbol.bytes))
      ids.push_back(bytes_[static_cast<uint8_t>(c)]);
  }
}

}  // namespace hrun
