// The steps of read_spec(), in the order in which it takes them.
#pragma once

#include "gguf/file.h"
#include "model/spec/spec.h"

namespace hrun::planning {

// Reads the keys of the architecture, within the limits below.  n_vocab is left to the tokenizer.
HyperParams read_params(const gguf::File& file, const ModelDescription& description);

// Checks that token list, types, scores, merges and special ids agree with each other.  Returns the
// size of the vocabulary.
int64_t check_tokenizer(const gguf::File& file, const ModelDescription& description,
                        std::vector<std::string>& warnings);

// Fills globals, layers, tied_head.  Needs spec.params.
void place_tensors(const gguf::File& file, ModelSpec& spec);

// Throws UnsupportedModelError: "cannot load 'PATH': " and the formatted rest.
template <class... Args>
[[noreturn]] void unsupported(const gguf::File& file, std::string_view pattern,
                              const Args&... args) {
  throw UnsupportedModelError("cannot load '{}': {}", printable(file.path(), 4096),
                              message(pattern, args...));
}

// Limits: far above any model, far below what could wrap or exhaust memory.
inline constexpr uint64_t kMaxLayers = 512;
inline constexpr uint64_t kMaxWidth = 1'048'576;  // embedding_length
inline constexpr uint64_t kMaxFeedForward = 16'777'216;
inline constexpr uint64_t kMaxHeads = 65'536;
inline constexpr uint64_t kMaxHeadDim = 4'096;
inline constexpr uint64_t kMaxContext =
    4'294'967'295;  // what a u32 key can say; the requested context decides
inline constexpr uint64_t kMaxVocab = 16'777'216;
inline constexpr uint64_t kMaxTokenBytes = 65'535;

}  // namespace hrun::planning
