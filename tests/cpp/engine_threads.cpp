// The engine under many threads that submit, read, cancel and close, half of the requests bound to
// masks that come late: every answer is the one that the prompt has alone, and no page stays taken.
// Also run under the thread sanitizer.
#include <poll.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "base/pcg32.h"
#include "engine/engine.h"
#include "tiny_gguf.h"

namespace {

using namespace hrun;

constexpr int64_t kContext = 200, kDrawn = 20;
std::atomic<int> failures = 0;

// A grammar of numbers: the tokens that may follow depend on the request's number and on the tokens
// that were drawn.  Half of the requests have one.
uint64_t step(uint64_t hash, uint64_t value) { return (hash ^ (value + 1)) * 0x9e3779b97f4a7c15u; }

std::optional<uint64_t> constraint_of(const std::vector<int32_t>& prompt) {
  return prompt.size() % 2 ? std::optional<uint64_t>(prompt.size()) : std::nullopt;
}

MaskAnswer answer_to(uint64_t hash, size_t n_drawn, int n_vocab) {
  MaskAnswer answer;
  answer.complete = n_drawn > 0 && hash >> 60 == 0;
  const auto bits = static_cast<uint32_t>(hash >> 32) & ((uint32_t{1} << n_vocab) - 1);
  answer.words = {bits == 0 ? 1 : bits};
  return answer;
}

// Answers requests for masks at once or late, in any order.
void keep_desk(MaskDesk& desk, int n_vocab, bool in_haste) {
  struct Known {
    uint64_t hash;
    size_t n_drawn = 0;
  };
  std::map<SequenceId, Known> known;
  std::vector<std::pair<std::shared_ptr<RequestHandle>, MaskAnswer>> answers;
  Pcg32 own = Pcg32::seeded(9);
  while (!desk.closed()) {
    pollfd waiting{desk.descriptor(), POLLIN, 0};
    if (answers.empty()) ::poll(&waiting, 1, -1);
    for (MaskQuery& query : desk.take()) {
      const SequenceId id = query.handle->id();
      if (query.kind == MaskQuery::Kind::ended) {
        known.erase(id);
        continue;
      }
      Known& k = known.try_emplace(id, Known{step(query.constraint, 0)}).first->second;
      if (query.kind == MaskQuery::Kind::drawn) {
        k.hash = step(k.hash, static_cast<uint64_t>(query.token));
        ++k.n_drawn;
      }
      answers.emplace_back(std::move(query.handle), answer_to(k.hash, k.n_drawn, n_vocab));
    }
    for (size_t i = answers.size(); i-- > 0;) {
      if (!in_haste && own.uniform() < 0.5) continue;
      desk.answer(*answers[i].first, std::move(answers[i].second));
      answers.erase(answers.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

// Checks that the grammar of the prompt allows these tokens.
bool fits(const std::vector<int32_t>& prompt, const std::vector<int32_t>& tokens, int n_vocab) {
  const auto constraint = constraint_of(prompt);
  if (!constraint) return true;
  uint64_t hash = step(*constraint, 0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const MaskAnswer answer = answer_to(hash, i, n_vocab);
    if (answer.complete || !allows(answer.words, static_cast<size_t>(tokens[i]))) return false;
    hash = step(hash, static_cast<uint64_t>(tokens[i]));
  }
  return true;
}

Request request_of(const std::vector<int32_t>& prompt, int64_t max_unread) {
  Request request;
  request.constraint = constraint_of(prompt);
  request.prompt = prompt;
  request.parameters.max_tokens = kDrawn;
  request.sampler.emplace(uint64_t{3},
                          std::vector<std::pair<std::string_view, double>>{{"temperature", 1.5}},
                          std::vector<std::pair<int32_t, float>>{});
  request.max_unread = max_unread;
  return request;
}

std::vector<int32_t> answer(Engine& engine, const std::vector<int32_t>& prompt, int64_t n_read,
                            bool cancel) {
  const auto handle = engine.submit(request_of(prompt, 4));
  std::vector<int32_t> tokens;
  for (bool going = true; going;) {
    const Update update = handle->take(std::chrono::milliseconds(50));
    for (const DrawnToken& t : update.tokens) tokens.push_back(t.token);
    if (!update.tokens.empty()) engine.resume(*handle);
    if (update.finish != Finish::none) break;
    if (cancel && static_cast<int64_t>(tokens.size()) >= n_read) {
      engine.cancel(*handle);
      going = false;
    }
  }
  return tokens;
}

}  // namespace

int main() {
  const std::string path = (std::filesystem::temp_directory_path() /
                            ("hrun-engine-" + std::to_string(::getpid()) + ".gguf"))
                               .string();
  const tiny::Bytes bytes = tiny::model(tiny::Vocabulary::pairs);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  const auto model = Model::load(path, {.device = "cpu", .n_threads = 2});
  std::filesystem::remove(path);
  const int n_vocab = static_cast<int>(model->params().n_vocab);

  Pcg32 random = Pcg32::seeded(1);
  const auto below = [](Pcg32& r, int n) { return static_cast<int>(r.uniform() * n); };
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 8; ++i) {
    std::vector<int32_t> prompt(static_cast<size_t>(i % 2 ? 70 : 3), i % 3);
    for (int k = below(random, 90); k >= 0; --k) prompt.push_back(below(random, n_vocab));
    prompts.push_back(prompt);
  }
  EngineOptions options;
  options.n_ctx = kContext;
  options.n_batch = 24;
  options.kv_tokens = 2 * kContext;  // so that sequences displace each other
  std::vector<std::vector<int32_t>> want;
  {
    Engine alone(model, options);
    std::thread desk([&] { keep_desk(*alone.mask_desk(), n_vocab, true); });
    for (const auto& prompt : prompts) {
      want.push_back(answer(alone, prompt, 0, false));
      if (!fits(prompt, want.back(), n_vocab) && ++failures)
        std::printf("tokens that the grammar does not allow\n");
    }
    alone.close();
    desk.join();
  }
  for (int round = 0; round < 3; ++round) {
    Engine engine(model, options);
    const int wakeup = engine.make_wakeup();
    std::thread desk([&] { keep_desk(*engine.mask_desk(), n_vocab, false); });
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t)
      threads.emplace_back([&, t] {
        Pcg32 own = Pcg32::seeded(static_cast<uint64_t>(100 * round + t));
        for (int k = 0; k < 12; ++k) {
          const auto i = static_cast<size_t>(below(own, static_cast<int>(prompts.size())));
          const bool cancel = below(own, 3) == 0;
          const auto got = answer(engine, prompts[i], below(own, 12), cancel);
          const bool same = std::equal(
              got.begin(), got.end(), want[i].begin(),
              want[i].begin() + static_cast<std::ptrdiff_t>(std::min(got.size(), want[i].size())));
          if (!same || got.size() > want[i].size() || (!cancel && got.size() != want[i].size()))
            if (++failures < 5) std::printf("prompt %zu: another answer than alone\n", i);
          engine.stats();
          engine.drain(wakeup);
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (int wait = 0; wait < 2000 && engine.stats().scheduler.n_running > 0; ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (const auto used = engine.stats().scheduler.pool.n_used; used != 0 && ++failures)
      std::printf("%ld pages are still taken\n", static_cast<long>(used));
    // The engine is closed while some requests wait and some run.
    std::vector<std::shared_ptr<RequestHandle>> left;
    for (const auto& prompt : prompts) left.push_back(engine.submit(request_of(prompt, 2)));
    engine.close();
    desk.join();
    for (const auto& handle : left)
      if (!handle->finished() && ++failures) std::printf("a request outlives its engine\n");
  }
  return failures == 0 ? 0 : 1;
}
