// Random damage to model files.  With clang: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined
// and this file gives a libFuzzer target; everywhere else main() mutates sound files itself:
// test_fuzz_gguf [inputs] [seed]
#include <algorithm>
#include <cstring>
#include <exception>
#include <random>

#include "tiny_gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hrun::tiny::exercise(data, size);
  return 0;
}

#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // libFuzzer brings a main() of its own
namespace {

using hrun::tiny::Bytes;

class Mutator {
 public:
  Mutator(std::vector<Bytes> sound, uint64_t seed) : sound_(std::move(sound)), random_(seed) {
    for (const Bytes& bytes : sound_) heads_.push_back(hrun::tiny::head_bytes(bytes));
  }

  Bytes next() {
    const size_t which = below(sound_.size());
    Bytes bytes = sound_[which];
    for (size_t n = 1 + below(4); n > 0; --n) mutate(bytes, std::min(heads_[which], bytes.size()));
    return bytes;
  }

 private:
  size_t below(size_t n) {
    return n == 0 ? 0 : std::uniform_int_distribution<size_t>(0, n - 1)(random_);
  }

  uint64_t interesting(size_t size) {
    const uint64_t values[] = {0,
                               1,
                               2,
                               7,
                               8,
                               31,
                               32,
                               33,
                               255,
                               65535,
                               65536,
                               size,
                               size - 1,
                               uint64_t{1} << 31,
                               uint64_t{1} << 32,
                               uint64_t{1} << 61,
                               uint64_t{1} << 63,
                               ~uint64_t{0},
                               ~uint64_t{0} - 31,
                               random_()};
    return values[below(std::size(values))];
  }

  void mutate(Bytes& bytes, size_t head) {
    if (bytes.empty()) return;
    const size_t at = below(head);
    const auto here = bytes.begin() + static_cast<ptrdiff_t>(at);
    const uint64_t value = interesting(bytes.size());
    switch (below(7)) {
      case 0:
        bytes[at] ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        bytes[at] = static_cast<uint8_t>(value);
        break;
      case 2:
        std::memcpy(&*here, &value, std::min<size_t>(8, bytes.size() - at));
        break;
      case 3:
        std::memcpy(&*here, &value, std::min<size_t>(4, bytes.size() - at));
        break;
      case 4:
        bytes.erase(here, here + static_cast<ptrdiff_t>(
                                     1 + below(std::min<size_t>(40, bytes.size() - at))));
        break;
      case 5: {  // a piece of the file inserted somewhere else: keys, types and lengths in the
                 // wrong place
        const size_t from = below(bytes.size()),
                     count = 1 + below(std::min<size_t>(60, bytes.size() - from));
        const Bytes piece(bytes.begin() + static_cast<ptrdiff_t>(from),
                          bytes.begin() + static_cast<ptrdiff_t>(from + count));
        bytes.insert(here, piece.begin(), piece.end());
        break;
      }
      default:
        bytes.resize(at + below(bytes.size() - at));
        break;
    }
  }

  std::vector<Bytes> sound_;
  std::vector<size_t> heads_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const unsigned long long inputs = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 20000,
                           seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  unsigned long long i = 0;
  try {
    Mutator mutator({hrun::tiny::model(hrun::tiny::Vocabulary::pairs),
                     hrun::tiny::model(hrun::tiny::Vocabulary::pieces)},
                    seed);
    for (; i < inputs; ++i) {
      const Bytes bytes = mutator.next();
      LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
  } catch (const std::exception& error) {
    std::printf("input %llu of seed %llu: not a typed error: %s\n", i, seed, error.what());
    return 1;
  }
  std::printf("%llu inputs of seed %llu\n", inputs, seed);
  return 0;
}
#endif
