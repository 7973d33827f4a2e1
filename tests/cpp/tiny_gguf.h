// Small sound model files, and the code that every hostile variant of them goes through.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "encode/encoders.h"
#include "formats/list.h"
#include "gguf/file.h"
#include "gguf/verify.h"
#include "gguf/writer.h"
#include "model/spec/spec.h"

// AddressSanitizer reads this: no file of a few kilobytes is worth an allocation of 16 MiB.
extern "C" __attribute__((visibility("default"), used)) const char* __asan_default_options() {
  return "max_allocation_size_mb=16";
}

namespace hrun::tiny {

using Bytes = std::vector<uint8_t>;
using Keep = std::function<bool(std::string_view)>;  // of a key or a tensor name
enum class Vocabulary { pairs, pieces };

inline constexpr uint64_t kWidth = 32, kHeads = 2, kKvHeads = 1, kFeedForward = 32, kLayers = 2;
inline constexpr std::string_view kPath = "tiny.gguf";

inline std::vector<std::string> tokens(Vocabulary vocabulary) {
  if (vocabulary == Vocabulary::pairs)
    return {"A", "B", "C", "AB", "ABC", "<bos>", "<eos>", "\x01", ""};
  return {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "ab", "\xff", "a"};
}

// A Llama model of two layers with every kind of tensor and key that the plan knows, without what
// `keep` refuses.
inline Bytes model(
    Vocabulary vocabulary, const Keep& keep = [](std::string_view) { return true; }) {
  using gguf::Type;
  using gguf::Value;
  const std::string path = (std::filesystem::temp_directory_path() /
                            ("hrun-tiny-" + std::to_string(::getpid()) + ".gguf"))
                               .string();
  gguf::Writer writer(path);
  const auto add = [&](std::string_view key, Type type, const Value& value) {
    if (keep(key)) writer.add(key, type, value);
  };
  const auto number = [&](std::string_view key, uint64_t value) {
    add(key, Type::u32, Value(value));
  };
  const auto real = [&](std::string_view key, double value) { add(key, Type::f32, Value(value)); };
  const auto text = [&](std::string_view key, std::string_view value) {
    add(key, Type::string, Value(value));
  };
  const auto strings = [&](std::string_view key, const std::vector<std::string>& values) {
    const Bytes bytes =
        gguf::encode_strings(std::vector<std::string_view>(values.begin(), values.end()));
    add(key, Type::array, gguf::Array(Type::string, values.size(), bytes));
  };
  const auto numbers = [&](std::string_view key, Type type, const std::vector<double>& values) {
    Bytes bytes;
    for (const double v : values)
      gguf::append_scalar(bytes, type,
                          gguf::is_float(type) ? Value(v) : Value(static_cast<int64_t>(v)), key);
    add(key, Type::array, gguf::Array(type, values.size(), bytes));
  };

  text("general.architecture", "llama");
  text("general.type", "model");
  number("general.alignment", 32);
  number("llama.block_count", kLayers);
  number("llama.context_length", 128);
  number("llama.embedding_length", kWidth);
  number("llama.feed_forward_length", kFeedForward);
  number("llama.attention.head_count", kHeads);
  numbers("llama.attention.head_count_kv", Type::i32, {1, 1});
  number("llama.attention.key_length", kWidth / kHeads);
  number("llama.attention.value_length", kWidth / kHeads);
  number("llama.rope.dimension_count", kWidth / kHeads);
  real("llama.attention.layer_norm_rms_epsilon", 1e-5);
  real("llama.rope.freq_base", 10000);
  text("llama.rope.scaling.type", "yarn");
  real("llama.rope.scaling.factor", 4);
  number("llama.rope.scaling.original_context_length", 32);
  add("llama.attention.causal", Type::boolean, Value(true));
  const std::vector<std::string> words = tokens(vocabulary);
  number("llama.vocab_size", words.size());
  strings("tokenizer.ggml.tokens", words);
  if (vocabulary == Vocabulary::pairs) {
    text("tokenizer.ggml.model", "gpt2");
    numbers("tokenizer.ggml.token_type", Type::i32, {1, 1, 1, 1, 1, 3, 3, 4, 5});
    strings("tokenizer.ggml.merges", {"A B", "AB C"});
    number("tokenizer.ggml.bos_token_id", 5);
    number("tokenizer.ggml.eos_token_id", 6);
  } else {
    text("tokenizer.ggml.model", "llama");
    numbers("tokenizer.ggml.token_type", Type::i32, {2, 3, 3, 1, 1, 1, 1, 1, 1});
    numbers("tokenizer.ggml.scores", Type::f32, {0, 0, 0, -1, -2, -3, -4, -5, -6});
    number("tokenizer.ggml.unknown_token_id", 0);
    number("tokenizer.ggml.bos_token_id", 1);
  }
  text("tokenizer.chat_template", "{{ messages }}");

  struct Made {
    std::string name;
    std::vector<uint64_t> dims;
  };
  std::vector<Made> made;
  const uint64_t kv = kWidth / kHeads * kKvHeads;
  const auto tensor = [&](const std::string& name, std::vector<uint64_t> dims) {
    if (!keep(name)) return;
    const FormatInfo& format = *find_format(std::string_view(dims.size() == 1 ? "f32" : "q8_0"));
    writer.add_tensor(name, dims, format.id);
    made.push_back({name, std::move(dims)});
  };
  tensor("token_embd.weight", {kWidth, words.size()});
  tensor("output_norm.weight", {kWidth});
  tensor("output.weight", {kWidth, words.size()});
  tensor("rope_freqs.weight", {kWidth / kHeads / 2});
  for (uint64_t l = 0; l < kLayers; ++l) {
    const std::string blk = "blk." + std::to_string(l) + ".";
    tensor(blk + "attn_norm.weight", {kWidth});
    tensor(blk + "attn_q.weight", {kWidth, kWidth});
    tensor(blk + "attn_k.weight", {kWidth, kv});
    tensor(blk + "attn_v.weight", {kWidth, kv});
    tensor(blk + "attn_v.bias", {kv});
    tensor(blk + "attn_output.weight", {kWidth, kWidth});
    tensor(blk + "ffn_norm.weight", {kWidth});
    tensor(blk + "ffn_gate.weight", {kWidth, kFeedForward});
    tensor(blk + "ffn_up.weight", {kWidth, kFeedForward});
    tensor(blk + "ffn_down.weight", {kFeedForward, kWidth});
  }
  for (const Made& m : made) {
    const FormatInfo& format = *find_format(std::string_view(m.dims.size() == 1 ? "f32" : "q8_0"));
    const uint64_t rows = m.dims.size() == 1 ? 1 : m.dims[1];
    const auto cols = static_cast<int64_t>(m.dims[0]);
    const std::vector<float> row(m.dims[0], 0.5f);
    Bytes data(format.row_bytes(cols) * rows);
    for (uint64_t r = 0; r < rows; ++r)
      hrun::find_encoder(format.id)->encode_row(row.data(), nullptr, cols,
                                                data.data() + r * format.row_bytes(cols));
    writer.write_tensor(m.name, data);
  }
  writer.finish();
  std::ifstream in(path, std::ios::binary);
  Bytes bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::filesystem::remove(path);
  return bytes;
}

// The offset at which the data of a sound file begins.
inline size_t head_bytes(const Bytes& bytes) {
  const gguf::File file = gguf::File::parse(bytes, std::string(kPath));
  uint64_t begin = bytes.size();
  for (const gguf::TensorInfo& t : file.tensors()) begin = std::min(begin, t.offset);
  return begin;
}

[[noreturn]] inline void broken(const std::string& what) { throw std::logic_error(what); }

// The reader of this message has a terminal.
inline void check_message(std::string_view message) {
  if (message.find(kPath) == std::string_view::npos)
    broken("a message that does not name the file: " + std::string(message));
  for (const char c : message)
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f)
      broken("a message with control bytes: " + printable(message, 4096));
}

// Reads all that a parsed file offers.
inline uint64_t touch(const gguf::File& file) {
  uint64_t sum = file.unused_bytes() + file.alignment();
  for (const gguf::Entry& e : file.metadata()) {
    sum += e.key.size();
    if (file.find(e.key) != &e) broken("find() does not find a key");
    if (const auto* array = std::get_if<gguf::Array>(&e.value)) {
      uint64_t n = 0;
      array->for_each([&](const gguf::Value&) { ++n; });
      if (n != array->size()) broken("an array with other than its elements");
    }
  }
  for (const gguf::TensorInfo& t : file.tensors()) {
    if (file.find_tensor(t.name) != &t) broken("find_tensor() does not find a tensor");
    for (const uint8_t byte : file.data(t)) sum += byte;
    const TensorView view = file.view(t);
    if (static_cast<uint64_t>(view.rows) * view.row_bytes != t.bytes)
      broken("a view of another size than its tensor");
  }
  return sum;
}

enum class Outcome { refused, no_model, model };

// Does with a file what happens to it on its way to a plan.  The bytes are copied to an allocation
// of exactly their size, so that a sanitizer sees one byte too far.  Throws std::logic_error for
// anything but success or a typed error.
inline Outcome exercise(const uint8_t* data, size_t size) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[size]);
  std::copy(data, data + size, exact.get());
  Outcome reached = Outcome::refused;
  try {
    const gguf::File file = gguf::File::parse({exact.get(), size}, std::string(kPath));
    reached = Outcome::no_model;
    touch(file);
    const ModelSpec plan = read_spec(file);
    if (plan.layers.size() != static_cast<size_t>(plan.params.n_layers))
      broken("a plan without all its layers");
    for (const std::string& warning : plan.warnings) check_message(warning + std::string(kPath));
    reached = Outcome::model;
    for (const gguf::TensorInfo& t : file.tensors()) gguf::verify(file, t);
  } catch (const ModelFileError& error) {
    check_message(error.what());
  } catch (const UnsupportedModelError& error) { check_message(error.what()); }
  return reached;
}

}  // namespace hrun::tiny
