#include "base/watched_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <limits>
#include <mutex>
#include <utility>

namespace hrun {

// A signal handler may touch all of this: atomics without locks, in a list that only grows.
struct WatchedPages::Place {
  static constexpr size_t kAllRead = std::numeric_limits<size_t>::max();
  std::atomic<bool> taken = true;
  std::atomic<uintptr_t> begin = 0;
  std::atomic<size_t> bytes = 0;  // 0: watches nothing now
  std::atomic<size_t> unreadable_from = kAllRead;
  Place* next = nullptr;
};

namespace {

std::atomic<WatchedPages::Place*> places = nullptr;
struct sigaction handler_before;
uintptr_t page_bytes = 4096;

static_assert(std::atomic<size_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

// Zeros from the page of `address` to the end of its mapping: what follows the end of a file cannot
// be read either, and after an error nothing of the file is used.
bool fill_with_zeros(uintptr_t address) {
  for (WatchedPages::Place* place = places.load(); place; place = place->next) {
    const size_t bytes = place->bytes.load();
    const uintptr_t begin = place->begin.load();
    if (address < begin || address - begin >= bytes) continue;
    const uintptr_t page = address / page_bytes * page_bytes;
    const size_t rest = bytes - (page - begin);
    if (mmap(reinterpret_cast<void*>(page), rest, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
      return false;
    size_t known = place->unreadable_from.load();
    while (page - begin < known &&
           !place->unreadable_from.compare_exchange_weak(known, page - begin)) {}
    return true;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  const bool is_access = info->si_code > 0;  // not sent by kill()
  if (is_access && fill_with_zeros(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = error;
    return;
  }
  if (handler_before.sa_flags & SA_SIGINFO) {
    handler_before.sa_sigaction(signal, info, context);
  } else if (handler_before.sa_handler == SIG_DFL ||
             (handler_before.sa_handler == SIG_IGN && is_access)) {
    ::signal(signal, SIG_DFL);
    raise(signal);  // once this handler has returned
  } else if (handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(signal);
  }
  errno = error;
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action{};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, nullptr, &handler_before);  // before ours can be called
    sigaction(SIGBUS, &action, nullptr);
  });
}

WatchedPages::Place* take_place() {
  for (WatchedPages::Place* place = places.load(); place; place = place->next)
    if (bool taken = false; place->taken.compare_exchange_strong(taken, true)) return place;
  auto* const made = new WatchedPages::Place;
  made->next = places.load();
  while (!places.compare_exchange_weak(made->next, made)) {}
  return made;
}

}  // namespace

WatchedPages::WatchedPages(const uint8_t* begin, size_t bytes) : place_(take_place()) {
  install_handler();
  place_->unreadable_from = Place::kAllRead;
  place_->begin = reinterpret_cast<uintptr_t>(begin);
  place_->bytes = bytes;
}

WatchedPages::WatchedPages(WatchedPages&& other) noexcept
    : place_(std::exchange(other.place_, nullptr)) {}

WatchedPages& WatchedPages::operator=(WatchedPages&& other) noexcept {
  std::swap(place_, other.place_);
  return *this;
}

WatchedPages::~WatchedPages() {
  if (!place_) return;
  place_->bytes = 0;
  place_->taken = false;
}

std::optional<size_t> WatchedPages::unreadable_from() const {
  const size_t from = place_ ? place_->unreadable_from.load() : Place::kAllRead;
  return from == Place::kAllRead ? std::nullopt : std::optional(from);
}

}  // namespace hrun
