// Watches a mapped file that may become unreadable: another program cuts it short, its disk fails
// or its server is gone.  The system answers the access with SIGBUS, which ends the process.
// Watched pages become zeros instead, and remember it, so that the reader asks afterwards, and
// throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace hrun {

class WatchedPages {
 public:
  // `begin` is the start of a mapping.  The first object installs the handler of SIGBUS, which
  // leaves every other place to the handler before it.
  WatchedPages(const uint8_t* begin, size_t bytes);
  WatchedPages(WatchedPages&& other) noexcept;
  WatchedPages& operator=(WatchedPages&& other) noexcept;
  ~WatchedPages();  // before the mapping goes

  // The offset from which on zeros were read.
  std::optional<size_t> unreadable_from() const;

  struct Place;

 private:
  Place* place_;  // never freed: the handler may be walking over it
};

}  // namespace hrun
