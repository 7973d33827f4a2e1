// The mailbox: nothing is lost or doubled, order is kept, bounds hold, and its descriptor says
// whether something is in it.  Also under TSan.
#include "engine/mailbox.h"

#include <poll.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

namespace {

using hrun::Mailbox;

int failures = 0;
void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

template <class T>
bool readable(const Mailbox<T>& box) {
  pollfd waiting{box.descriptor(), POLLIN, 0};
  return poll(&waiting, 1, 0) == 1;
}

void one_thread() {
  Mailbox<std::unique_ptr<int>> box(3);
  check(!readable(box) && box.drain().empty() && !box.wait(0), "empty");
  check(box.push(std::make_unique<int>(1)) && readable(box) && box.wait(-1), "something is in it");
  check(box.push(std::make_unique<int>(2)) && box.size() == 2, "two");
  std::vector<std::unique_ptr<int>> more;
  more.push_back(std::make_unique<int>(3));
  more.push_back(std::make_unique<int>(4));
  check(!box.push_all(more) && more.size() == 2 && box.size() == 2, "all or none");
  more.pop_back();
  check(box.push_all(more) && more.empty(), "all");
  auto kept = std::make_unique<int>(5);
  check(!box.push(std::move(kept)) && kept && *kept == 5, "what is refused stays the caller's");
  const auto drained = box.drain();
  check(drained.size() == 3 && *drained[0] == 1 && *drained[2] == 3, "in order");
  check(!readable(box), "empty again");
  const auto begin = std::chrono::steady_clock::now();
  check(!box.wait(20'500), "a wait ends");
  const auto waited = std::chrono::steady_clock::now() - begin;
  check(waited >= std::chrono::microseconds(20'500), "not before its time");
  check(box.push(std::make_unique<int>(6)), "usable after that");
  box.close();
  check(!box.push(std::move(kept)) && kept && box.closed(), "a closed box takes nothing");
  check(box.drain().size() == 1, "but gives what is in it");
  check(readable(box) && box.wait(-1) && readable(box), "and wakes whoever waits");
}

void many_threads() {
  constexpr int kThreads = 4, kEach = 20'000;
  Mailbox<std::pair<int, int>> box(64);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&box, t] {
      for (int i = 0; i < kEach;) {
        std::vector<std::pair<int, int>> two = {{t, i}, {t, i + 1}};
        if (i % 3 == 0 && i + 1 < kEach) {
          if (box.push_all(two))
            i += 2;
          else
            std::this_thread::yield();
        } else {
          if (box.push({t, i}))
            ++i;
          else
            std::this_thread::yield();
        }
      }
    });
  int next[kThreads] = {};
  bool in_order = true, bounded = true;
  for (int n = 0; n < kThreads * kEach;) {
    if (!box.wait(10'000'000)) {
      check(false, "a wake-up is lost");
      break;
    }
    const auto values = box.drain();
    bounded = bounded && values.size() <= 64;
    for (const auto& [t, i] : values) in_order = in_order && next[t]++ == i;
    n += static_cast<int>(values.size());
  }
  for (auto& thread : threads) thread.join();
  check(in_order, "each thread's values in their order, none lost");
  check(bounded, "never more than the capacity");
  check(box.drain().empty() && !readable(box), "nothing left");
}

void closing_wakes() {
  Mailbox<int> box(1);
  std::thread closes([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    box.close();
  });
  check(box.wait(10'000'000) && box.closed(), "closing wakes");
  closes.join();
}

}  // namespace

int main() {
  one_thread();
  for (int i = 0; i < 5; ++i) many_threads();
  closing_wakes();
  return failures == 0 ? 0 : 1;
}
