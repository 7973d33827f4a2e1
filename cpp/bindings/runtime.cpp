// Model, Session, Sampler.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/moments.h"
#include "bindings/names.h"
#include "bindings/signal_poll.h"
#include "engine/samplers.h"
#include "engine/session.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {
RotatedMatmul rotated_matmul(const std::string& name) {
  static const std::map<std::string, RotatedMatmul> kNames = {
      {"activation", RotatedMatmul::activation},
      {"activation-float", RotatedMatmul::activation_float},
      {"weight", RotatedMatmul::weight}};
  const auto it = kNames.find(name);
  if (it == kNames.end())
    throw ArgumentError("rotation is '{}', must be activation, activation-float or weight",
                        printable(name));
  return it->second;
}

namespace {

using States = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutStates = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::shared_ptr<Model> load(const std::string& path, const std::string& device,
                            int64_t n_gpu_layers, int n_threads, const std::string& cpu_tier,
                            const std::string& rotation, nb::object progress,
                            std::optional<std::pair<int64_t, int64_t>> layers) {
  if (n_threads < 0 || n_threads > 4096)
    throw ArgumentError("n_threads is {}, must be between 0 and 4096", n_threads);
  BackendOptions options;
  options.device = device;
  options.n_gpu_layers = n_gpu_layers;
  options.n_threads = n_threads;
  options.cpu_tier = cpu_tier;
  options.rotated_matmul = rotated_matmul(rotation);
  const bool report = !progress.is_none();
  const WithoutGil release;
  SignalPoll poll;
  const LayerPart part = layers ? LayerPart{layers->first, layers->second} : LayerPart{};
  auto model = Model::load(
      path, options,
      [&](int64_t done, int64_t total) {
        poll();
        if (report) with_gil([&] { progress(done, total); });
      },
      part);
  return std::const_pointer_cast<Model>(model);  // Python has no const; every method bound below is
}

// A sampler that several Python threads, and sessions, may hold: calls take turns.
struct PySampler {
  explicit PySampler(Sampler&& made) : sampler(std::move(made)), seed(sampler.seed()) {}

  Sampler sampler;
  CallMutex mutex;
  const uint64_t seed;
};

// A session that several Python threads may hold: calls take turns, the session's before the
// sampler's.
class PySession {
 public:
  // The session is made without the GIL: allocating memory of a device takes turns with passes that
  // ask for the GIL.
  PySession(std::shared_ptr<Model> model, int64_t n_ctx, const std::string& type_k,
            const std::string& type_v, int64_t n_batch)
      : session_(std::move(model), SessionOptions{n_ctx, n_batch, type_k, type_v}),
        n_ctx_(session_.n_ctx()),
        memory_bytes_(session_.memory_bytes()) {}

  // Returns None where no logits are wanted: an empty array would import numpy for nothing.
  std::optional<nb::ndarray<nb::numpy, float>> forward(const std::vector<int32_t>& tokens,
                                                       const std::string& which,
                                                       PyObserver* observer,
                                                       std::optional<States> states,
                                                       std::optional<OutStates> out_states) {
    const Logits mode = which == "last"  ? Logits::last
                        : which == "all" ? Logits::all
                                         : Logits::none;
    if (mode == Logits::none && which != "none")
      throw ArgumentError("logits is '{}', must be last, all or none", printable(which));
    const auto width = static_cast<size_t>(session_.model().state_width());
    const auto require_shape = [&](size_t rows, size_t cols) {
      if (rows != tokens.size() || cols != width)
        throw ArgumentError("states of {} tokens are [{}, {}], found [{}, {}]", tokens.size(),
                            tokens.size(), width, rows, cols);
    };
    LayerStates between;
    if (states) {
      require_shape(states->shape(0), states->shape(1));
      between.in = states->data();
    }
    if (out_states) {
      require_shape(out_states->shape(0), out_states->shape(1));
      between.out = out_states->data();
    }
    std::unique_ptr<float[]> out;
    size_t n = 0, n_vocab = 0;
    mutex_.call_without_gil([&] {
      std::unique_lock<std::mutex> observing;
      if (observer) observing = observer->mutex.wait();
      SignalPoll poll;
      check(poll, tokens.size());
      session_.forward(
          tokens, mode, [&] { check(poll, tokens.size()); },
          observer ? &observer->observer() : nullptr, between);
      n_past_ = session_.n_past();
      if (mode == Logits::none) return;
      n_vocab = static_cast<size_t>(session_.model().params().n_vocab);
      n = session_.logits().size();
      out = std::make_unique<float[]>(n);
      std::memcpy(out.get(), session_.logits().data(), n * sizeof(float));
    });
    if (mode == Logits::none) return std::nullopt;
    float* raw = out.release();
    nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::ndarray<nb::numpy, float>(raw, {n / n_vocab, n_vocab}, owner);
  }

  // One step of generation: evaluate, then sample, without a round trip of the logits through
  // Python.
  int32_t next(const std::vector<int32_t>& tokens, PySampler& sampler) {
    return mutex_.call_without_gil([&] {
      const auto sampling = sampler.mutex.wait();
      SignalPoll poll;
      check(poll, tokens.size());
      const auto moved = [this](void*) { n_past_ = session_.n_past(); };
      const std::unique_ptr<void, decltype(moved)> after(this, moved);  // also if drawing fails
      return session_.next(tokens, sampler.sampler, [&] { check(poll, tokens.size()); });
    });
  }

  int32_t sample(PySampler& sampler) {
    return mutex_.call_without_gil([&] {
      const auto sampling = sampler.mutex.wait();
      return sampler.sampler.sample(session_.last_logits());
    });
  }
  int64_t truncate(int64_t n) {
    return mutex_.call([&] {
      const int64_t start = session_.truncate(n);
      n_past_ = n;
      return start;
    });
  }
  void pretend(int64_t n) {
    mutex_.call_without_gil([&] {
      session_.pretend(n);
      n_past_ = n;
    });
  }
  void cancel() { cancelled_ = true; }
  int64_t n_past() const { return n_past_; }
  int64_t n_ctx() const { return n_ctx_; }
  size_t memory_bytes() const { return memory_bytes_; }

 private:
  void check(SignalPoll& poll, size_t n_tokens) {
    if (cancelled_.exchange(false))
      throw Cancelled("cancelled while evaluating {} tokens", n_tokens);
    poll();
  }

  Session session_;
  CallMutex mutex_;
  const int64_t n_ctx_;
  const size_t memory_bytes_;
  std::atomic<int64_t> n_past_ = 0;      // after the last call, for who must not wait for one
  std::atomic<bool> cancelled_ = false;  // until a call has ended by it
};

Sampler make_sampler(std::optional<uint64_t> seed, nb::object logit_bias, nb::kwargs parameters) {
  std::vector<std::pair<std::string_view, double>> values;
  std::vector<std::string> names;
  names.reserve(nb::len(parameters));
  for (const auto& [key, value] : parameters) {
    names.push_back(nb::cast<std::string>(key));
    values.emplace_back(names.back(), nb::cast<double>(value));
  }
  std::vector<std::pair<int32_t, float>> bias;
  if (!logit_bias.is_none())
    for (const auto& [key, value] : nb::cast<nb::dict>(logit_bias))
      bias.emplace_back(nb::cast<int32_t>(key), nb::cast<float>(value));
  std::random_device random;
  const uint64_t chosen = seed ? *seed : random();
  return Sampler(chosen, values, std::move(bias));
}

std::span<const float> as_span(const FloatArray& logits) { return {logits.data(), logits.size()}; }

}  // namespace

void init_runtime(nb::module_& m) {
  nb::class_<Model>(m, "Model", "Weights on a device; immutable, shared between sessions.")
      .def_static("load", &load, "path"_a, "device"_a = "auto", "n_gpu_layers"_a = -1,
                  "n_threads"_a = 0, "cpu_tier"_a = "", "rotated_matmul"_a = "activation",
                  "progress"_a = nb::none(), "layers"_a = nb::none(),
                  "Open, validate and upload a GGUF. progress(done, total) in tensors. layers: "
                  "(first, end) of a part of it, for Session.forward with states; 0 has the "
                  "embedding, an end of n_layers + 1 the head. Raises "
                  "ModelFileError, "
                  "UnsupportedModelError, OutOfMemoryError, DeviceError, ArgumentError.")
      .def_prop_ro("path", [](const Model& model) { return model.file().path(); })
      .def_prop_ro("description", [](const Model& model) { return model.device_description(); })
      .def_prop_ro("n_threads", [](const Model& model) { return model.backend(0).n_threads(); })
      .def_prop_ro("architecture",
                   [](const Model& model) { return std::string(model.spec().description->name); })
      .def_prop_ro("warnings", [](const Model& model) { return model.spec().warnings; })
      .def_prop_ro("device_warning", &Model::warning,
                   "A wish for a GPU that was not met; empty if there is none.")
      .def_prop_ro("n_ctx_train", [](const Model& model) { return model.params().n_ctx_train; })
      .def_prop_ro("n_vocab", [](const Model& model) { return model.params().n_vocab; })
      .def_prop_ro("n_embd", [](const Model& model) { return model.params().n_embd; })
      .def_prop_ro("n_layers", [](const Model& model) { return model.params().n_layers; })
      .def_prop_ro("state_width", &Model::state_width, "Values of a token between two layers.")
      .def_prop_ro(
          "is_encoder", [](const Model& model) { return model.spec().is_encoder(); },
          "It gives vectors of texts, and no text.")
      .def_prop_ro(
          "n_classes", [](const Model& model) { return model.params().n_classes; },
          "Scores of a text; 0 where the model has no head for them.")
      .def_prop_ro(
          "pooling",
          [](const Model& model) -> std::optional<std::string> {
            const auto& pooling = model.params().pooling;
            return pooling ? std::optional<std::string>(pooling_name(*pooling)) : std::nullopt;
          },
          "How the states of a text's tokens become one vector, by the file: none, mean, "
          "cls, last or rank.")
      .def_prop_ro(
          "class_pooling",
          [](const Model& model) { return pooling_name(model.params().class_pooling); },
          "The same of what the head of classes reads.")
      .def_prop_ro("n_params",
                   [](const Model& model) {
                     uint64_t n = 0;
                     for (const auto& t : model.file().tensors())
                       n += t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3];
                     return n;
                   })
      .def(
          "time_operations",
          [](const Model& model, bool on) {
            for (size_t d = 0; d < model.n_backends(); ++d) model.backend(d).time_operations(on);
          },
          "on"_a, nb::call_guard<WithoutGil>(),
          "Measure from zero what each operation of the backend takes, or stop.")
      .def(
          "operation_times",
          [](const Model& model) {
            OperationTimes times;
            {
              const WithoutGil release;  // a backend may be busy with a pass that asks for the GIL
              for (size_t d = 0; d < model.n_backends(); ++d)
                times += model.backend(d).operation_times();
            }
            std::vector<std::tuple<std::string, double, int64_t>> rows;
            for (size_t i = 0; i < kOperations; ++i)
              if (const auto& entry = times.entries[i]; entry.calls)
                rows.emplace_back(kOperationNames[i], 1e-9 * static_cast<double>(entry.nanoseconds),
                                  entry.calls);
            return rows;
          },
          "[(operation, seconds, calls)] since time_operations(True).")
      .def_prop_ro("bytes_per_token", &Model::bytes_per_token,
                   "Bytes of weights that generating a token reads.")
      .def("weights_multiplied", &Model::weights_multiplied, "n_tokens"_a,
           "Weights times tokens in the products of a prompt whose last token alone gets logits.")
      .def_prop_ro(
          "bytes",
          [](const Model& model) {
            uint64_t n = 0;
            for (const auto& t : model.file().tensors()) n += t.bytes;
            return n;
          },
          "Bytes of all tensors in the file.");

  nb::class_<PySampler>(m, "Sampler",
                        "A chain from logits to a token; see samplers() for its keyword "
                        "parameters. Calls from several threads serialise.")
      .def(
          "__init__",
          [](PySampler* self, std::optional<uint64_t> seed, nb::object logit_bias,
             nb::kwargs parameters) {
            new (self) PySampler(make_sampler(seed, logit_bias, parameters));
          },
          "seed"_a = nb::none(), "logit_bias"_a = nb::none(), "parameters"_a)
      .def(
          "sample_logits",
          [](PySampler& s, FloatArray logits) {
            return s.mutex.call([&] { return s.sampler.sample(as_span(logits)); });
          },
          "logits"_a, "Draw from float32 [n_vocab] and accept the token. Raises GenerationError.")
      .def(
          "sample", [](PySampler& s, PySession& session) { return session.sample(s); }, "session"_a,
          "Draw from the last logits of a session.")
      .def(
          "accept",
          [](PySampler& s, int32_t token) { s.mutex.call([&] { s.sampler.accept(token); }); },
          "token"_a)
      .def(
          "probabilities",
          [](PySampler& s, FloatArray logits) {
            return s.mutex.call([&] { return s.sampler.probabilities(as_span(logits)); });
          },
          "logits"_a, "[(token, probability)] of what would be drawn from, best first.")
      .def_ro("seed", &PySampler::seed);

  nb::class_<PySession>(
      m, "Session",
      "One sequence: a position and its KV cache. Calls from several threads serialise.")
      .def(nb::init<std::shared_ptr<Model>, int64_t, const std::string&, const std::string&,
                    int64_t>(),
           nb::call_guard<WithoutGil>(), "model"_a, "n_ctx"_a = 0, "type_k"_a = "f16",
           "type_v"_a = "f16", "n_batch"_a = 512)
      .def("forward", &PySession::forward, "tokens"_a, "logits"_a = "last",
           "observer"_a = nb::none(), "states"_a = nb::none(), "out_states"_a = nb::none(),
           "Append tokens; float32 [1, n_vocab], [n, n_vocab] or None. states, out_states: float32 "
           "[n, model.state_width], what comes into a part of a model and where what leaves it "
           "goes. Raises ContextOverflowError before any work, Cancelled, "
           "KeyboardInterrupt; the session then stands where it stood.")
      .def("next", &PySession::next, "tokens"_a, "sampler"_a,
           "forward(tokens) and sample from the last row.")
      .def("truncate", &PySession::truncate, "n"_a,
           "Forget everything from position n on. Returns the position from which the next "
           "forward() goes on, which is n; further back than 16 tokens it is where a state of "
           "recurrent layers was kept, and forward() computes the tokens between once more.")
      .def("pretend", &PySession::pretend, "n"_a,
           "For measurements: stand at position n as if so many tokens had been read.")
      .def("cancel", &PySession::cancel,
           "Make the forward() or next() under way in another thread raise Cancelled within a "
           "layer; where none is, the next one, as a caller cannot know whether it has begun.")
      .def_prop_ro("n_past", &PySession::n_past, "Tokens in the cache, without a call under way.")
      .def_prop_ro("n_ctx", &PySession::n_ctx)
      .def_prop_ro("memory_bytes", &PySession::memory_bytes);

  nb::class_<SamplerParameter>(m, "SamplerInfo")
      .def_prop_ro("name", [](const SamplerParameter& p) { return std::string(p.name); })
      .def_prop_ro("help", [](const SamplerParameter& p) { return std::string(p.help); })
      .def_ro("default", &SamplerParameter::fallback)
      .def_ro("min", &SamplerParameter::min)
      .def_ro("max", &SamplerParameter::max)
      .def_prop_ro("type", [](const SamplerParameter& p) { return p.integer ? "int" : "float"; });
  m.def(
      "samplers",
      [] {
        const auto rows = sampler_parameters();
        return std::vector<SamplerParameter>(rows.begin(), rows.end());
      },
      "The sampling parameters, in chain order.");
  m.def("kv_formats", [] {
    std::vector<std::string> names;
    for (const auto name : cache_type_names()) names.emplace_back(name);
    return names;
  });
  m.def(
      "kv_bytes",
      [](const std::string& format, int64_t dim, int64_t n_plain) {
        if (dim < 1 || n_plain < 0 || n_plain >= dim)
          throw ArgumentError("kv_bytes: a head of {} values, {} of them plain", dim, n_plain);
        return cache_position_bytes(cache_type_named(format), dim, n_plain);
      },
      "format"_a, "dim"_a, "n_plain"_a = 0,
      "Bytes of a position of a head in a KV cache of a format; where it is codes, so many values "
      "stay fp16.");
  m.def(
      "kv_format",
      [](const std::string& name) { return std::string(cache_type_name(cache_type_named(name))); },
      "name"_a, "The format of a KV cache that is meant by a name, perhaps another program's.");
}

}  // namespace hrun::bindings
