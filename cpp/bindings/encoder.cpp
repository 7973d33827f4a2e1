// Encoder, and the projections and scores that models make of the vectors of texts.
#include "engine/encoder.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/names.h"
#include "bindings/signal_poll.h"
#include "model/text_heads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {
namespace {

constexpr std::array<const char*, 5> kPoolings = {"none", "mean", "cls", "last", "rank"};

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

// float32 [values / cols, cols]
Floats as_rows(const std::vector<float>& values, size_t cols) {
  auto* const raw = new float[values.size()];
  std::memcpy(raw, values.data(), values.size() * sizeof(float));
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Floats(raw, {values.size() / cols, cols}, owner);
}

class PyEncoder {
 public:
  PyEncoder(std::shared_ptr<Model> model, int64_t n_ctx, int64_t n_batch)
      : encoder_(std::move(model), n_ctx, n_batch) {}

  std::vector<Floats> encode(std::vector<std::vector<int32_t>> tokens, const std::string& pooling,
                             const std::vector<int64_t>& seconds) {
    const Pooling how = pooling_named(pooling);
    if (!seconds.empty() && seconds.size() != tokens.size())
      throw ArgumentError("{} texts and {} beginnings of second ones", tokens.size(),
                          seconds.size());
    std::vector<EncoderText> texts;
    for (size_t i = 0; i < tokens.size(); ++i)
      texts.push_back({std::move(tokens[i]), seconds.empty() ? kOneText : seconds[i]});
    const uint64_t era = era_;
    std::vector<std::vector<float>> made = mutex_.call_without_gil([&] {
      SignalPoll poll;
      return encoder_.encode(texts, how, [&] {
        if (era_ != era) throw Cancelled("cancelled while encoding {} texts", texts.size());
        poll();
      });
    });
    const auto n_embd = static_cast<size_t>(encoder_.model().params().n_embd);
    std::vector<Floats> out;
    out.reserve(made.size());
    for (const std::vector<float>& values : made) out.push_back(as_rows(values, n_embd));
    return out;
  }
  void cancel() { ++era_; }
  int64_t n_ctx() const { return encoder_.n_ctx(); }

 private:
  Encoder encoder_;
  CallMutex mutex_;
  std::atomic<uint64_t> era_ = 0;  // cancel() begins another
};

std::vector<float> values_of(const Rows& x) { return {x.data(), x.data() + x.size()}; }

Floats project(const Model& model, const Rows& x) {
  std::vector<float> values = values_of(x);
  {
    const WithoutGil release;
    values = project_texts(model, std::move(values));
  }
  return as_rows(values, static_cast<size_t>(model.params().n_embd));
}

Floats score(const Model& model, const Rows& x) {
  std::vector<float> values = values_of(x);
  {
    const WithoutGil release;
    values = score_texts(model, values);
  }
  return as_rows(values, static_cast<size_t>(model.params().n_classes));
}

}  // namespace

Pooling pooling_named(const std::string& name) {
  for (size_t i = 0; i < kPoolings.size(); ++i)
    if (name == kPoolings[i]) return static_cast<Pooling>(i);
  throw ArgumentError("pooling is '{}', must be none, mean, cls, last or rank", printable(name));
}

const char* pooling_name(Pooling pooling) { return kPoolings[static_cast<size_t>(pooling)]; }

void init_encoder(nb::module_& m) {
  nb::class_<PyEncoder>(m, "Encoder",
                        "Texts to vectors through a model whose tokens see their whole text. Calls "
                        "from several threads serialise.")
      .def(nb::init<std::shared_ptr<Model>, int64_t, int64_t>(), nb::call_guard<WithoutGil>(),
           "model"_a, "n_ctx"_a = 0, "n_batch"_a = 512)
      .def("encode", &PyEncoder::encode, "texts"_a, "pooling"_a = "mean",
           "seconds"_a = std::vector<int64_t>(),
           "Of each text's tokens the states after the last norm, pooled: float32 [1, n_embd], or "
           "with 'none' [n_tokens, n_embd]. seconds: where the second of two texts begins. Raises "
           "ContextOverflowError, ArgumentError, Cancelled, "
           "KeyboardInterrupt.")
      .def("cancel", &PyEncoder::cancel, "Make calls under way raise Cancelled.")
      .def_prop_ro("n_ctx", &PyEncoder::n_ctx, "Tokens of a text at most.");
  m.def("project_texts", &project, "model"_a, "vectors"_a,
        "float32 [n, n_embd] of texts' vectors: through the model's projections, where it has "
        "such.");
  m.def("score_texts", &score, "model"_a, "vectors"_a,
        "float32 [n, n_classes]: the scores of texts' vectors. Raises UnsupportedModelError where "
        "the model has no head for them.");
}

}  // namespace hrun::bindings
