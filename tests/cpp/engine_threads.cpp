// The engine under many threads that submit, read, cancel and close: every answer is the one that
// the prompt has alone, and no page stays taken.  Also run under the thread sanitizer.
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/pcg32.h"
#include "engine/engine.h"
#include "tiny_gguf.h"

namespace {

using namespace hrun;

constexpr int64_t kContext = 200, kDrawn = 20;
std::atomic<int> failures = 0;

Request request_of(const std::vector<int32_t>& prompt, int64_t max_unread) {
  Request request;
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
    for (const auto& prompt : prompts) want.push_back(answer(alone, prompt, 0, false));
  }
  for (int round = 0; round < 3; ++round) {
    Engine engine(model, options);
    const int wakeup = engine.make_wakeup();
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
    // Closed while some wait and some run.
    std::vector<std::shared_ptr<RequestHandle>> left;
    for (const auto& prompt : prompts) left.push_back(engine.submit(request_of(prompt, 2)));
    engine.close();
    for (const auto& handle : left)
      if (!handle->finished() && ++failures) std::printf("a request outlives its engine\n");
  }
  return failures == 0 ? 0 : 1;
}
