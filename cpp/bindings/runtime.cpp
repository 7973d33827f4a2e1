// Model, Session, Sampler.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
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
#include "bindings/ways.h"
#include "calibration/moments.h"
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

using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Checks for Ctrl-C from a thread that holds no GIL, at most every 20 ms.
class SignalPoll {
 public:
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(20)) return;
    last_ = now;
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::shared_ptr<Model> load(const std::string& path, const std::string& device,
                            int64_t n_gpu_layers, int n_threads, const std::string& cpu_tier,
                            const std::string& rotation, nb::object progress) {
  if (n_threads < 0 || n_threads > 4096)
    throw ArgumentError("n_threads is {}, must be between 0 and 4096", n_threads);
  BackendOptions options;
  options.device = device;
  options.n_gpu_layers = n_gpu_layers;
  options.n_threads = n_threads;
  options.cpu_tier = cpu_tier;
  options.rotated_matmul = rotated_matmul(rotation);
  const bool report = !progress.is_none();
  nb::gil_scoped_release release;
  SignalPoll poll;
  auto model = Model::load(path, options, [&](int64_t done, int64_t total) {
    poll();
    if (!report) return;
    nb::gil_scoped_acquire gil;
    progress(done, total);
  });
  return std::const_pointer_cast<Model>(model);  // Python has no const; every method bound below is
}

// A session that several Python threads may hold: calls are serialised.
class PySession {
 public:
  PySession(std::shared_ptr<Model> model, int64_t n_ctx, const std::string& type_k,
            const std::string& type_v, int64_t n_batch)
      : session_(model, SessionOptions{n_ctx, n_batch, type_k, type_v}) {}

  // None where no logits are wanted: an empty array would import numpy for nothing.
  std::optional<nb::ndarray<nb::numpy, float>> forward(const std::vector<int32_t>& tokens,
                                                       const std::string& which,
                                                       MomentCollector* observer) {
    const Logits mode = which == "last"  ? Logits::last
                        : which == "all" ? Logits::all
                                         : Logits::none;
    if (mode == Logits::none && which != "none")
      throw ArgumentError("logits is '{}', must be last, all or none", printable(which));
    std::unique_ptr<float[]> out;
    size_t n = 0, n_vocab = 0;
    {
      nb::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      evaluate(tokens, mode, observer);
      if (mode == Logits::none) return std::nullopt;
      n_vocab = static_cast<size_t>(session_.model().params().n_vocab);
      n = session_.logits().size();
      out = std::make_unique<float[]>(n);
      std::memcpy(out.get(), session_.logits().data(), n * sizeof(float));
    }
    float* raw = out.release();
    nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::ndarray<nb::numpy, float>(raw, {n / n_vocab, n_vocab}, owner);
  }

  // One step of generation: evaluate, then sample, without a round trip of the logits through
  // Python.
  int32_t next(const std::vector<int32_t>& tokens, Sampler& sampler) {
    nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    cancelled_ = false;
    SignalPoll poll;
    return session_.next(tokens, sampler, [&] { check(poll, tokens.size()); });
  }

  int32_t sample(Sampler& sampler) {
    const std::lock_guard lock(mutex_);
    return sampler.sample(session_.last_logits());
  }
  void truncate(int64_t n) {
    const std::lock_guard lock(mutex_);
    session_.truncate(n);
  }
  void cancel() { cancelled_ = true; }
  const Session& get() const { return session_; }

 private:
  // Without the GIL and with the lock.
  void evaluate(const std::vector<int32_t>& tokens, Logits which,
                MatmulObserver* observer = nullptr) {
    cancelled_ = false;
    SignalPoll poll;
    session_.forward(tokens, which, [&] { check(poll, tokens.size()); }, observer);
  }
  void check(SignalPoll& poll, size_t n_tokens) {
    if (cancelled_) throw Cancelled("cancelled while evaluating {} tokens", n_tokens);
    poll();
  }

  Session session_;
  std::mutex mutex_;
  std::atomic<bool> cancelled_ = false;
};

std::unique_ptr<Sampler> make_sampler(std::optional<uint64_t> seed, nb::object logit_bias,
                                      nb::kwargs parameters) {
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
  return std::make_unique<Sampler>(chosen, values, std::move(bias));
}

std::span<const float> as_span(const FloatArray& logits) { return {logits.data(), logits.size()}; }

}  // namespace

void init_runtime(nb::module_& m) {
  nb::class_<Model>(m, "Model", "Weights on a device; immutable, shared between sessions.")
      .def_static("load", &load, "path"_a, "device"_a = "auto", "n_gpu_layers"_a = -1,
                  "n_threads"_a = 0, "cpu_tier"_a = "", "rotated_matmul"_a = "activation",
                  "progress"_a = nb::none(),
                  "Open, validate and upload a GGUF. progress(done, total) in tensors. Raises "
                  "ModelFileError, "
                  "UnsupportedModelError, OutOfMemoryError, DeviceError, ArgumentError.")
      .def_prop_ro("path", [](const Model& model) { return model.file().path(); })
      .def_prop_ro("description", [](const Model& model) { return model.device_description(); })
      .def_prop_ro("n_threads", [](const Model& model) { return model.backend(0).n_threads(); })
      .def_prop_ro("architecture",
                   [](const Model& model) { return std::string(model.plan().description->name); })
      .def_prop_ro("warnings", [](const Model& model) { return model.plan().warnings; })
      .def_prop_ro("device_warning", &Model::warning,
                   "A wish for a GPU that was not met; empty if there is none.")
      .def_prop_ro("n_ctx_train", [](const Model& model) { return model.params().n_ctx_train; })
      .def_prop_ro("n_vocab", [](const Model& model) { return model.params().n_vocab; })
      .def_prop_ro("n_embd", [](const Model& model) { return model.params().n_embd; })
      .def_prop_ro("n_layers", [](const Model& model) { return model.params().n_layers; })
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
          "on"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Measure from zero what each operation of the backend takes, or stop.")
      .def(
          "operation_times",
          [](const Model& model) {
            OperationTimes times;
            for (size_t d = 0; d < model.n_backends(); ++d)
              times += model.backend(d).operation_times();
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

  nb::class_<Sampler>(m, "Sampler",
                      "A chain from logits to a token; see samplers() for its keyword parameters.")
      .def(
          "__init__",
          [](Sampler* self, std::optional<uint64_t> seed, nb::object logit_bias,
             nb::kwargs parameters) {
            new (self) Sampler(std::move(*make_sampler(seed, logit_bias, parameters)));
          },
          "seed"_a = nb::none(), "logit_bias"_a = nb::none(), "parameters"_a)
      .def(
          "sample_logits", [](Sampler& s, FloatArray logits) { return s.sample(as_span(logits)); },
          "logits"_a, "Draw from float32 [n_vocab] and accept the token. Raises GenerationError.")
      .def(
          "sample", [](Sampler& s, PySession& session) { return session.sample(s); }, "session"_a,
          "Draw from the last logits of a session.")
      .def("accept", &Sampler::accept, "token"_a)
      .def(
          "probabilities",
          [](const Sampler& s, FloatArray logits) { return s.probabilities(as_span(logits)); },
          "logits"_a, "[(token, probability)] of what would be drawn from, best first.")
      .def_prop_ro("seed", &Sampler::seed);

  nb::class_<PySession>(
      m, "Session",
      "One sequence: a position and its KV cache. Calls from several threads serialise.")
      .def(nb::init<std::shared_ptr<Model>, int64_t, const std::string&, const std::string&,
                    int64_t>(),
           "model"_a, "n_ctx"_a = 0, "type_k"_a = "f16", "type_v"_a = "f16", "n_batch"_a = 512)
      .def("forward", &PySession::forward, "tokens"_a, "logits"_a = "last",
           "observer"_a = nb::none(),
           "Append tokens; float32 [1, n_vocab], [n, n_vocab] or None. Raises ContextOverflowError "
           "before any work, Cancelled, "
           "KeyboardInterrupt; the session then stands where it stood.")
      .def("next", &PySession::next, "tokens"_a, "sampler"_a,
           "forward(tokens) and sample from the last row.")
      .def("truncate", &PySession::truncate, "n"_a, "Forget everything from position n on.")
      .def("cancel", &PySession::cancel,
           "Make a forward() in another thread raise Cancelled within a layer.")
      .def_prop_ro("n_past", [](const PySession& s) { return s.get().n_past(); })
      .def_prop_ro("n_ctx", [](const PySession& s) { return s.get().n_ctx(); })
      .def_prop_ro("memory_bytes", [](const PySession& s) { return s.get().memory_bytes(); });

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
}

}  // namespace hrun::bindings
