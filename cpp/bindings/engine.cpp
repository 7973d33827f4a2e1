// Engine and the handles of its requests.
#include "engine/engine.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/names.h"
#include "engine/page_hash.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {
namespace {

using Top = std::vector<std::pair<int32_t, float>>;
using Drawn = std::tuple<int32_t, std::optional<float>, std::optional<Top>>;

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::none:
      return nullptr;
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::cancelled:
      return "cancelled";
    case Finish::failed:
      return "failed";
  }
  return nullptr;
}

RequestKind kind_named(const std::string& name) {
  if (name == "generate") return RequestKind::generate;
  if (name == "logits") return RequestKind::logits;
  if (name == "score") return RequestKind::score;
  if (name == "embed") return RequestKind::embed;
  throw ArgumentError("kind is '{}', must be generate, logits, score or embed", printable(name));
}

// Waits in slices, so that Ctrl-C is seen.
std::pair<std::vector<Drawn>, std::optional<std::string>> take(Engine& engine,
                                                               RequestHandle& handle,
                                                               double timeout, bool all) {
  engine.require_usable();
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(std::min(timeout, 1e6)));
  Update update;
  std::vector<DrawnToken> drawn;
  while (true) {
    {
      const WithoutGil release;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
      update = handle.take(
          std::clamp(left, std::chrono::milliseconds(0), std::chrono::milliseconds(20)));
      if (!update.tokens.empty()) engine.resume(handle);
    }
    drawn.insert(drawn.end(), std::make_move_iterator(update.tokens.begin()),
                 std::make_move_iterator(update.tokens.end()));
    if ((!all && !drawn.empty()) || update.finish != Finish::none || Clock::now() >= end) break;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
  if (update.finish == Finish::failed && drawn.empty()) std::rethrow_exception(update.error);
  std::vector<Drawn> tokens;
  tokens.reserve(drawn.size());
  for (DrawnToken& t : drawn)
    tokens.emplace_back(t.token, t.logprob ? std::optional(t.logprob->logprob) : std::nullopt,
                        t.logprob ? std::optional(std::move(t.logprob->top)) : std::nullopt);
  // If the request failed after some tokens, the next call reports it.
  const char* const name = update.finish == Finish::failed ? nullptr : finish_name(update.finish);
  return {std::move(tokens), name ? std::optional<std::string>(name) : std::nullopt};
}

std::shared_ptr<RequestHandle> submit(
    Engine& engine, std::vector<int32_t> prompt, const std::string& kind, int64_t max_tokens,
    uint64_t seed, const std::map<std::string, double>& sampling,
    std::vector<std::pair<int32_t, float>> logit_bias, std::vector<int32_t> end_tokens,
    int64_t top_logprobs, int32_t priority, const std::string& client, const std::string& salt,
    bool reuse_prefix, int64_t max_unread, int64_t first_row, const std::string& pooling,
    std::optional<uint64_t> constraint, int64_t n_drawn) {
  const WithoutGil release;
  Request request;
  request.kind = kind_named(kind);
  request.pooling = pooling_named(pooling);
  if (request.pooling == Pooling::rank)
    throw ArgumentError("pooling is 'rank', must be none, mean, cls or last");
  request.parameters.max_tokens = max_tokens;
  request.parameters.priority = priority;
  request.parameters.client = client;
  request.parameters.salt = salt;
  request.parameters.reuse_prefix = reuse_prefix;
  request.end_tokens = std::move(end_tokens);
  request.n_top_logprobs = top_logprobs;
  request.max_unread = max_unread;
  request.first_row = first_row;
  request.constraint = constraint;
  if (request.kind == RequestKind::generate) {
    const std::vector<std::pair<std::string_view, double>> values(sampling.begin(), sampling.end());
    request.sampler.emplace(seed, values, std::move(logit_bias));
    for (const int32_t token : prompt) request.sampler->accept(token);
    if (n_drawn < 0 || n_drawn > static_cast<int64_t>(prompt.size()))
      throw ArgumentError("n_drawn is {}, must be between 0 and {}", n_drawn, prompt.size());
    request.sampler->skip(n_drawn);
  }
  request.prompt = std::move(prompt);
  return engine.submit(std::move(request));
}

using Query = std::tuple<uint64_t, std::shared_ptr<RequestHandle>, std::optional<int32_t>, bool>;

std::vector<Query> take_queries(MaskDesk& desk) {
  std::vector<Query> queries;
  for (MaskQuery& q : desk.take())
    queries.emplace_back(q.constraint, std::move(q.handle),
                         q.kind == MaskQuery::Kind::drawn ? std::optional(q.token) : std::nullopt,
                         q.kind == MaskQuery::Kind::ended);
  return queries;
}

using Words = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void allow(MaskDesk& desk, RequestHandle& handle, const Words& words) {
  if (words.size() == 0) throw ArgumentError("a token mask without words");
  MaskAnswer answer;
  answer.words.assign(words.data(), words.data() + words.size());
  const WithoutGil release;
  desk.answer(handle, std::move(answer));
}

void complete(MaskDesk& desk, RequestHandle& handle) {
  MaskAnswer answer;
  answer.complete = true;
  desk.answer(handle, std::move(answer));
}

void fail(MaskDesk& desk, RequestHandle& handle, const std::string& why) {
  MaskAnswer answer;
  answer.error = std::make_exception_ptr(GenerationError("{}", why));
  desk.answer(handle, std::move(answer));
}

nb::dict stats(const Engine& engine) {
  EngineStats s;
  {
    const WithoutGil release;
    s = engine.stats();
  }
  nb::dict d;
  d["n_running"] = s.scheduler.n_running;
  d["n_waiting"] = s.scheduler.n_waiting;
  d["n_waiting_tokens"] = s.scheduler.n_waiting_tokens;
  d["n_preemptions"] = s.scheduler.n_preemptions;
  d["n_steps"] = s.scheduler.n_steps;
  d["n_prompt_rows"] = s.scheduler.n_prompt_rows;
  d["n_decode_rows"] = s.scheduler.n_decode_rows;
  d["n_generated"] = s.n_generated;
  d["n_pages"] = s.scheduler.pool.n_pages;
  d["n_pages_used"] = s.scheduler.pool.n_used;
  d["n_pages_cached"] = s.scheduler.pool.n_cached;
  d["n_evictions"] = s.scheduler.pool.n_evictions;
  d["n_looked_up"] = s.scheduler.pool.n_looked_up;
  d["n_hits"] = s.scheduler.pool.n_hits;
  d["n_late_masks"] = s.n_late_masks;
  d["busy_seconds"] = s.busy_seconds;
  d["forward_seconds"] = s.forward_seconds;
  return d;
}

}  // namespace

void init_engine(nb::module_& m) {
  nb::class_<PageHasher>(
      m, "PageHasher",
      "Keyed hashes of pages of tokens, as the engine's cache knows them; the key "
      "is this object's own.")
      .def(nb::init<>())
      .def(
          "chain",
          [](const PageHasher& hasher, const std::vector<int32_t>& tokens, const std::string& salt,
             size_t at_most) {
            nb::list out;
            for (const Hash128& h : hasher.chain(tokens, salt, at_most))
              out.append(nb::bytes(&h, sizeof h));
            return out;
          },
          "tokens"_a, "salt"_a = "", "at_most"_a = 64,
          "One value for each full page of the prompt, of it and all before it.");

  nb::class_<RequestHandle>(m, "RequestHandle", "An answer on its way.")
      .def_prop_ro("id", &RequestHandle::id)
      .def_prop_ro("finished", &RequestHandle::finished)
      .def_prop_ro("prompt_seconds", &RequestHandle::prompt_seconds,
                   "From the request until its first token was drawn.")
      .def_prop_ro("generate_seconds", &RequestHandle::generate_seconds,
                   "From the first token drawn to the last.")
      .def_prop_ro("n_cached", &RequestHandle::n_cached,
                   "Tokens of the prompt that were found in the cache.")
      .def_prop_ro(
          "values",
          [](nb::handle self) {
            auto& handle = nb::cast<RequestHandle&>(self);
            if (!handle.finished()) throw ArgumentError("the request has not finished");
            std::vector<float>& v = handle.values();
            return nb::ndarray<nb::numpy, float, nb::ndim<1>>(v.data(), {v.size()}, self);
          },
          "Logits, row after row, or the embedding: float32, once the request has finished.")
      .def_prop_ro(
          "scores",
          [](const RequestHandle& handle) {
            if (!handle.finished()) throw ArgumentError("the request has not finished");
            std::vector<std::pair<float, Top>> scores;
            for (const TokenLogprob& s : handle.scores()) scores.emplace_back(s.logprob, s.top);
            return scores;
          },
          "[(log-probability, [(token, log-probability) of the likeliest])] once the request has "
          "finished.");

  nb::class_<MaskDesk>(m, "MaskDesk",
                       "Where an engine asks which tokens a grammar allows next; for one thread.")
      .def("take", &take_queries,
           "[(constraint, handle, token or None, ended)]: what was asked since the last look. A "
           "token was drawn, None stands for the beginning; each but the last of a request, which "
           "has ended, expects an answer.")
      .def("allow", &allow, "handle"_a, "words"_a,
           "Answer: token t may be drawn if bit t % 32 of word t // 32 is set.")
      .def("complete", &complete, "handle"_a, nb::call_guard<WithoutGil>(),
           "Answer: the text is complete, and nothing may follow.")
      .def("fail", &fail, "handle"_a, "why"_a, nb::call_guard<WithoutGil>(),
           "Answer: the request fails with GenerationError.")
      .def_prop_ro("descriptor", &MaskDesk::descriptor,
                   "Readable while there is something to take, and once the engine is closed.")
      .def_prop_ro("closed", &MaskDesk::closed);

  nb::class_<Engine>(
      m, "Engine",
      "Runs the sequences of many callers through a model, as batches, in a thread of its own.")
      .def(
          "__init__",
          [](Engine* self, std::shared_ptr<Model> model, int64_t n_ctx, int64_t n_batch,
             int64_t kv_tokens, const std::string& type_k, const std::string& type_v,
             int64_t max_running, int64_t max_waiting, int64_t max_waiting_tokens,
             double step_seconds) {
            const WithoutGil release;
            new (self)
                Engine(std::move(model), {n_ctx, n_batch, kv_tokens, type_k, type_v, max_running,
                                          max_waiting, max_waiting_tokens, step_seconds});
          },
          "model"_a, "n_ctx"_a = 0, "n_batch"_a = 512, "kv_tokens"_a = 0, "type_k"_a = "f16",
          "type_v"_a = "f16", "max_running"_a = 64, "max_waiting"_a = 1 << 20,
          "max_waiting_tokens"_a = 0, "step_seconds"_a = 0.05)
      .def("submit", &submit, "prompt"_a, nb::kw_only(), "kind"_a = "generate", "max_tokens"_a = 0,
           "seed"_a = 0, "sampling"_a = std::map<std::string, double>(),
           "logit_bias"_a = std::vector<std::pair<int32_t, float>>(),
           "end_tokens"_a = std::vector<int32_t>(), "top_logprobs"_a = -1, "priority"_a = 0,
           "client"_a = "", "salt"_a = "", "reuse_prefix"_a = true, "max_unread"_a = 8,
           "first_row"_a = 0, "pooling"_a = "last", "constraint"_a = nb::none(), "n_drawn"_a = 0,
           "Queue a request. Of its prompt the last n_drawn tokens were drawn by an earlier one "
           "with "
           "the same seed, which it continues as if that had never ended. Raises "
           "ContextOverflowError, QueueFullError, ArgumentError, "
           "GenerationError.")
      .def("take", &take, "handle"_a, "timeout"_a = 1e6, "all"_a = false,
           "([(token, log-probability, likeliest)], how it finished or None): what has come since, "
           "waited for at most `timeout` seconds; with `all`, for the end. Raises what the request "
           "failed with.")
      .def("cancel", &Engine::cancel, "handle"_a, nb::call_guard<WithoutGil>())
      .def("cancel_all", &Engine::cancel_all, nb::call_guard<WithoutGil>())
      .def("close", &Engine::close, nb::call_guard<WithoutGil>(),
           "Cancel everything and end the thread.")
      .def("clear_cache", &Engine::clear_cache, nb::call_guard<WithoutGil>(),
           "Forget the keys and values that no request holds.")
      .def("make_wakeup", &Engine::make_wakeup, nb::call_guard<WithoutGil>(),
           "A file descriptor that becomes readable after each step.")
      .def("drain", &Engine::drain, "wakeup"_a)
      .def("drop_wakeup", &Engine::drop_wakeup, "wakeup"_a, nb::call_guard<WithoutGil>())
      .def("stats", &stats)
      .def_prop_ro("mask_desk", &Engine::mask_desk,
                   "Where requests with a constraint ask for the masks of their draws.")
      .def_prop_ro("n_ctx", &Engine::n_ctx)
      .def_prop_ro("n_pages", &Engine::n_pages)
      .def_prop_ro("memory_bytes", &Engine::memory_bytes);
}

}  // namespace hrun::bindings
