// Systematic damage to small model files: every prefix, every byte, every integer, every key and
// tensor left out. Under the asan-ubsan preset this is the proof that no such file makes the parser
// or the plan read out of bounds or overflow.
#include <cstring>
#include <exception>

#include "tiny_gguf.h"

namespace {

using namespace hrun;
using tiny::Bytes;

struct Counts {
  uint64_t files = 0, models = 0, refused = 0;
};

void run(const Bytes& bytes, Counts& counts) {
  const tiny::Outcome outcome = tiny::exercise(bytes.data(), bytes.size());
  ++counts.files;
  counts.models += outcome == tiny::Outcome::model;
  counts.refused += outcome == tiny::Outcome::refused;
}

Counts prefixes(const Bytes& sound) {
  Counts counts;
  for (size_t n = 0; n < sound.size(); ++n) {
    const tiny::Outcome outcome = tiny::exercise(sound.data(), n);
    ++counts.files;
    counts.refused += outcome == tiny::Outcome::refused;
  }
  return counts;
}

// Flips bytes of the head and the norms right behind it; quantized weights can take any value.
Counts bytes_flipped(const Bytes& sound, size_t head) {
  Counts counts;
  Bytes bytes = sound;
  for (size_t i = 0; i < head; ++i) {
    const uint8_t was = bytes[i];
    for (const int now : {was ^ 0xff, 0x00, 0x80, was ^ 0x01}) {
      bytes[i] = static_cast<uint8_t>(now);
      if (bytes[i] != was) run(bytes, counts);
    }
    bytes[i] = was;
  }
  return counts;
}

// Puts hostile integers at every offset, aligned to a field or not.
template <class T>
Counts integers(const Bytes& sound, size_t head) {
  const uint64_t size = sound.size();
  Counts counts;
  Bytes bytes = sound;
  for (size_t i = 0; i + sizeof(T) <= head; ++i) {
    for (const uint64_t value : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{1} << 31,
                                 uint64_t{1} << 32, uint64_t{1} << 63, size - 1, size, size + 1}) {
      const T field = static_cast<T>(value);
      std::memcpy(bytes.data() + i, &field, sizeof field);
      run(bytes, counts);
    }
    std::copy_n(sound.begin() + static_cast<ptrdiff_t>(i), sizeof(T),
                bytes.begin() + static_cast<ptrdiff_t>(i));
  }
  return counts;
}

// Replaces each key's value type by each other one; the bytes of the value stay as they are.
Counts types(const Bytes& sound) {
  Counts counts;
  const gguf::File file = gguf::File::parse(sound, std::string(tiny::kPath));
  for (const gguf::Entry& entry : file.metadata()) {
    const auto at = static_cast<size_t>(reinterpret_cast<const uint8_t*>(entry.key.data()) +
                                        entry.key.size() - sound.data());
    Bytes bytes = sound;
    for (uint32_t type = 0; type < gguf::kTypeCount; ++type) {
      std::memcpy(bytes.data() + at, &type, sizeof type);
      run(bytes, counts);
    }
  }
  return counts;
}

Counts removals(tiny::Vocabulary vocabulary, const Bytes& sound) {
  Counts counts;
  const gguf::File file = gguf::File::parse(sound, std::string(tiny::kPath));
  const auto without = [&](std::string_view name) {
    run(tiny::model(vocabulary, [&](std::string_view n) { return n != name; }), counts);
  };
  for (const gguf::Entry& entry : file.metadata()) without(entry.key);
  for (const gguf::TensorInfo& tensor : file.tensors()) without(tensor.name);
  return counts;
}

bool report(const char* sweep, const Counts& counts, bool expected) {
  std::printf("%-10s %8llu files, %8llu refused by the container, %6llu models%s\n", sweep,
              static_cast<unsigned long long>(counts.files),
              static_cast<unsigned long long>(counts.refused),
              static_cast<unsigned long long>(counts.models), expected ? "" : "  UNEXPECTED");
  return expected;
}

bool sweep(tiny::Vocabulary vocabulary) {
  const Bytes sound = tiny::model(vocabulary);
  const size_t head = tiny::head_bytes(sound);
  if (tiny::exercise(sound.data(), sound.size()) != tiny::Outcome::model)
    return report("sound", {1, 0, 0}, false);
  std::printf("%zu bytes, %zu of them before the data\n", sound.size(), head);
  bool ok = true;
  Counts c = prefixes(sound);
  ok &= report("prefixes", c,
               c.refused == c.files);  // the last tensor ends with the file: no prefix is whole
  c = bytes_flipped(sound, head);
  ok &= report("bytes", c, c.refused > 0 && c.models > 0);
  c = integers<uint64_t>(sound, head);
  ok &= report("u64", c, c.refused > 0);
  c = integers<uint32_t>(sound, head);
  ok &= report("u32", c, c.refused > 0);
  c = types(sound);
  ok &= report("types", c, c.models > 0);
  c = removals(vocabulary, sound);
  ok &= report("removals", c, c.refused == 0 && c.models > 0 && c.models < c.files);
  return ok;
}

}  // namespace

int main() {
  try {
    const bool pairs = sweep(tiny::Vocabulary::pairs), pieces = sweep(tiny::Vocabulary::pieces);
    return pairs && pieces ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("not a typed error: %s\n", error.what());
    return 1;
  }
}
