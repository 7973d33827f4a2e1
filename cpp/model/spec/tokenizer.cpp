// The tokenizer's metadata.  Tokenization happens outside of the core, which sees ids; what is
// checked here is that no id, length or index in the file can lead anyone astray.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/siphash.h"
#include "model/spec/parts.h"

namespace hrun::planning {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens", kTypes = "tokenizer.ggml.token_type",
                           kScores = "tokenizer.ggml.scores", kMerges = "tokenizer.ggml.merges",
                           kModel = "tokenizer.ggml.model";

// gpt2: byte-level pairs with a list of merges.  llama: SentencePiece pairs ranked by score, with
// byte tokens.  gemma4: SentencePiece's pieces and byte tokens, with a list of merges.  t5:
// SentencePiece's pieces whose scores add up best.  bert: the longest pieces of words.  rwkv: the
// longest tokens, written with the escapes of bytes.
struct TokenizerModel {
  std::string_view name;
  bool has_merges, has_bytes, has_scores;
};
constexpr TokenizerModel kModels[] = {{"gpt2", true, false, false},  {"llama", false, true, true},
                                      {"gemma4", true, true, false}, {"t5", false, false, true},
                                      {"bert", false, false, false}, {"rwkv", false, false, false}};

enum TokenType : int64_t { kUndefined = 0, kByte = 6 };

// Texts and the lowest id of each, open addressing over 32-bit ids: 8 bytes per token.
class TokenIndex {
 public:
  explicit TokenIndex(const std::vector<std::string_view>& tokens) : tokens_(tokens) {
    size_t slots = 16;
    while (slots < 2 * tokens.size()) slots *= 2;
    slots_.assign(slots, kEmpty);
    for (uint32_t id = 0; id < tokens.size(); ++id) {
      uint32_t& slot = find_slot(tokens[id]);
      if (slot == kEmpty)
        slot = id;
      else if (n_duplicates_++ == 0)
        first_duplicate_ = id;
    }
  }
  bool contains(std::string_view text) { return find_slot(text) != kEmpty; }
  uint64_t n_duplicates() const { return n_duplicates_; }
  uint32_t first_duplicate() const { return first_duplicate_; }

 private:
  static constexpr uint32_t kEmpty = UINT32_MAX;

  uint32_t& find_slot(std::string_view text) {
    const size_t mask = slots_.size() - 1;
    size_t at = hash_(text) & mask;
    while (slots_[at] != kEmpty && tokens_[slots_[at]] != text) at = (at + 1) & mask;
    return slots_[at];
  }

  const std::vector<std::string_view>& tokens_;
  SipHash hash_;
  std::vector<uint32_t> slots_;
  uint64_t n_duplicates_ = 0;
  uint32_t first_duplicate_ = 0;
};

std::vector<std::string_view> read_tokens(const gguf::File& file) {
  const gguf::Array& array = file.get_array(kTokens, gguf::Type::string);
  if (array.size() == 0 || array.size() > kMaxVocab)
    file.fail("key '{}' has {} tokens, must be 1 to {}", kTokens, array.size(), kMaxVocab);
  std::vector<std::string_view> tokens = file.get_strings(kTokens);
  for (size_t id = 0; id < tokens.size(); ++id)
    if (tokens[id].size() > kMaxTokenBytes)
      file.fail("key '{}': token {} is {} bytes long, limit {}", kTokens, id, tokens[id].size(),
                kMaxTokenBytes);
  return tokens;
}

// -1 where the text is not <0x00> ... <0xFF>.
int byte_of(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

void require_size(const gguf::File& file, std::string_view key, const gguf::Array& array,
                  size_t n_tokens) {
  if (array.size() != n_tokens)
    file.fail("key '{}' has {} entries, the vocabulary has {} tokens", key, array.size(), n_tokens);
}

void check_types(const gguf::File& file, const std::vector<std::string_view>& tokens,
                 bool needs_bytes) {
  if (!file.find(kTypes)) return;
  const gguf::Array& array = file.get_array(kTypes);
  if (array.element() != gguf::Type::i32 && array.element() != gguf::Type::u32)
    file.fail("key '{}' is array<{}>, must be array<i32>", kTypes, type_name(array.element()));
  require_size(file, kTypes, array, tokens.size());
  std::array<bool, 256> seen{};
  size_t id = 0;
  array.for_each([&](const gguf::Value& value) {
    const int64_t type = std::holds_alternative<int64_t>(value)
                             ? std::get<int64_t>(value)
                             : static_cast<int64_t>(std::get<uint64_t>(value));
    if (type < kUndefined || type > kByte)
      file.fail("key '{}': token {} has the unknown type {}, must be 0 to 6", kTypes, id, type);
    if (type == kByte) {
      const int byte = byte_of(tokens[id]);
      if (byte < 0)
        file.fail("key '{}': token {} '{}' is marked as a byte but is not <0x00> to <0xFF>",
                  kTokens, id, printable(tokens[id]));
      seen[static_cast<size_t>(byte)] = true;
    }
    ++id;
  });
  // Text that is no token falls back to bytes, all of them or, in models that have an unknown
  // token, to that one.
  const auto n_bytes = std::count(seen.begin(), seen.end(), true);
  if (needs_bytes && n_bytes < 256 &&
      (n_bytes > 0 || !file.find("tokenizer.ggml.unknown_token_id")))
    file.fail("key '{}' has {} of the 256 byte tokens <0x00> to <0xFF>, expected all of them",
              kTokens, n_bytes);
}

void check_scores(const gguf::File& file, size_t n_tokens, bool required) {
  if (!file.find(kScores) && !required) return;
  const gguf::Array& array = file.get_array(kScores, gguf::Type::f32);
  require_size(file, kScores, array, n_tokens);
  size_t id = 0;
  array.for_each([&](const gguf::Value& value) {
    if (std::isnan(std::get<double>(value)))
      file.fail("key '{}': entry {} is NaN, must be a number", kScores, id);
    ++id;
  });
}

// "left right": two tokens whose concatenation is one too.  A merge of which a part is no token
// never applies, and of equal ones the first counts; both are left out where text is encoded.
void check_merges(const gguf::File& file, TokenIndex& index, std::vector<std::string>& warnings) {
  const std::vector<std::string_view> merges = file.get_strings(kMerges);
  std::string joined, first_unknown;
  uint64_t n_unknown = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const size_t space = merge.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == merge.size() ||
        merge.find(' ', space + 1) != std::string_view::npos)
      file.fail("key '{}': merge {} '{}' is not 'left right'", kMerges, i, printable(merge));
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left).append(right);
    for (const std::string_view part : {left, right, std::string_view(joined)}) {
      if (index.contains(part)) continue;
      if (n_unknown++ == 0)
        first_unknown =
            message("merge {} '{}': '{}' is not a token", i, printable(merge), printable(part));
      break;
    }
  }
  if (n_unknown > 0)
    warnings.push_back(message("key '{}': {} of {} merges ignored ({})", kMerges, n_unknown,
                               merges.size(), first_unknown));
  const TokenIndex unique(merges);
  if (unique.n_duplicates() > 0)
    warnings.push_back(message("key '{}': {} merges appear twice (the first: {}); the first counts",
                               kMerges, unique.n_duplicates(), unique.first_duplicate()));
}

// The id of a special token that the vocabulary lacks stands for "none", as -1 and 4294967295 do.
void check_special_ids(const gguf::File& file, size_t n_tokens,
                       std::vector<std::string>& warnings) {
  constexpr std::string_view kPrefix = "tokenizer.ggml.", kSuffix = "_token_id";
  for (const gguf::Entry& entry : file.metadata()) {
    const std::string_view key = entry.key;
    if (key.size() < kPrefix.size() + kSuffix.size() || key.substr(0, kPrefix.size()) != kPrefix ||
        key.substr(key.size() - kSuffix.size()) != kSuffix)
      continue;
    const auto* number = std::get_if<int64_t>(&entry.value);
    const bool negative = number && *number < 0;
    if (!negative && file.get_uint(key) < n_tokens) continue;
    const bool none = negative ? *number == -1 : file.get_uint(key) == UINT32_MAX;
    if (!none)
      warnings.push_back(message(
          "key '{}' is {}, the vocabulary has {} tokens; it is ignored", printable(key),
          negative ? std::to_string(*number) : std::to_string(file.get_uint(key)), n_tokens));
  }
}

}  // namespace

int64_t check_tokenizer(const gguf::File& file, const ModelDescription& description,
                        std::vector<std::string>& warnings) {
  const std::string_view model = file.get_string(kModel);
  const auto kind = std::find_if(std::begin(kModels), std::end(kModels),
                                 [&](const TokenizerModel& known) { return known.name == model; });
  if (kind == std::end(kModels)) {
    std::string names;
    for (const TokenizerModel& known : kModels)
      names += (names.empty() ? "" : ", ") + std::string(known.name);
    unsupported(file, "key '{}' is '{}', which is not supported (supported: {})", kModel,
                printable(model), names);
  }

  const std::vector<std::string_view> tokens = read_tokens(file);
  check_types(file, tokens, kind->has_bytes);
  check_scores(file, tokens.size(), kind->has_scores);
  TokenIndex index(tokens);
  if (index.n_duplicates() > 0)
    warnings.push_back(message(
        "{} token{} the same text as an earlier one (the first: {}); the highest id encodes it, as "
        "in llama.cpp",
        index.n_duplicates(), index.n_duplicates() > 1 ? "s have" : " has",
        index.first_duplicate()));
  if (kind->has_merges) check_merges(file, index, warnings);
  check_special_ids(file, tokens.size(), warnings);

  const std::string vocab_key = std::string(description.name) + ".vocab_size";
  if (const uint64_t n = file.get_uint_or(vocab_key, tokens.size()); n != tokens.size())
    warnings.push_back(message("key '{}' is {}, the vocabulary has {} tokens; it is ignored",
                               vocab_key, n, tokens.size()));
  if (const gguf::Entry* e = file.find("tokenizer.chat_template");
      e && e->type != gguf::Type::string)
    warnings.push_back(
        message("key 'tokenizer.chat_template' has type {}, must be string; it is ignored",
                type_name(e->type)));
  return static_cast<int64_t>(tokens.size());
}

}  // namespace hrun::planning
