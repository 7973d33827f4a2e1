// Pages of the KV caches: who holds which, and which tokens a page's contents belong to.
//
// A page id names the same 64 positions in the caches of all layers and devices.  The pool knows no
// cache: it keeps counts and tokens, and the caller copies and fills the pages.
//
// A page in use is held by one or more page tables.  A page given back keeps its contents until it
// is needed for something else, oldest first, the tail of a sequence before its head.  Contents
// form a tree: a page's parent is the page before it, the root stands for a salt.  So that equal
// pages are found they are indexed by a keyed hash of their tokens and all before them; what was
// found is then compared token by token with the same parent, so that no collision can hand one
// sequence the contents of another.  Pages that are not full are found as well, by the order of
// their tokens.
//
// Not thread-safe: the engine's thread owns it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/kv_page.h"
#include "engine/page_hash.h"

namespace hrun {

class StateCheckpoints;

using PageId = int32_t;
inline constexpr PageId kNoPage = -1;

// A copy to make before a step's rows are computed; copies are made in the order of the list.
struct PageCopy {
  PageId from;
  PageId to;
  int64_t n_positions;  // the first of the page
  bool operator==(const PageCopy&) const = default;
};

// Some caches code a page when it is full.  They keep the rows of the page for some time; without
// the rows, a sequence can only go on at the page's end, or from its beginning.
struct PageRows {
  std::function<bool(PageId)> kept;  // empty: always
  std::function<void(PageId)> drop;
};

// The cached beginning of a prompt, which need not be computed again.
struct CachedPrefix {
  std::vector<PageId> pages;  // full and shared as they are
  PageId partial = kNoPage;   // a page whose first n_partial positions come next
  int64_t n_partial = 0;
  int32_t checkpoint = -1;  // slot of the recurrent state after these positions, where there is one

  int64_t n_positions() const {
    return static_cast<int64_t>(pages.size()) * kPagePositions + n_partial;
  }
};

struct PagePoolStats {
  int64_t n_pages = 0;
  int64_t n_used = 0;    // held by a table
  int64_t n_cached = 0;  // not held, contents kept
  int64_t n_empty = 0;   // not held, nothing in them
  int64_t n_evictions = 0;
  int64_t n_copies = 0;
  int64_t n_duplicates = 0;       // pages computed twice and merged
  int64_t n_looked_up = 0;        // tokens of prompts that were taken into tables ...
  int64_t n_hits = 0;             // ... and those of them that were cached
  int64_t n_hash_collisions = 0;  // equal hash, other contents
};

class PagePool {
 public:
  // checkpoints: of the models with recurrent layers; outlives the pool.  hash_mask: tests narrow
  // the hash so that collisions happen.
  explicit PagePool(int64_t n_pages, StateCheckpoints* checkpoints = nullptr,
                    uint64_t hash_mask = ~uint64_t{0}, PageRows rows = {});
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  int64_t n_pages() const { return static_cast<int64_t>(pages_.size()); }
  // Pages that allocate() could give out: empty or cached.
  int64_t n_available() const { return n_available_; }
  PagePoolStats stats() const;

  // The longest cached prefix of `tokens`, at most at_most positions (a caller who needs the logits
  // of the last token says tokens.size() - 1).  With checkpoints it ends at one.  Nothing changes.
  CachedPrefix lookup(std::span<const int32_t> tokens, std::string_view salt,
                      int64_t at_most) const;

  // The number of pages of `prefix` that nobody holds.  Taking the prefix makes n_available()
  // smaller by as many, and by one for a partial page.
  int64_t n_unheld(const CachedPrefix& prefix) const;

  // Puts a prefix that lookup() just gave into an empty table.  A partial page is copied into a new
  // one (into `copies`), or taken as it is where nobody holds it and it has no more positions.
  // n_tokens: of the whole prompt, for the statistics.  Needs n_available() >= n_unheld() + 1.
  void take(const CachedPrefix& prefix, int64_t n_tokens, std::vector<PageId>& table,
            std::vector<PageCopy>& copies);

  // New pages that `table` must be given before positions [first, end) can be written: pages that
  // are missing, and one for a page that is shared or has positions of others.
  int64_t n_needed(const std::vector<PageId>& table, int64_t first, int64_t end) const;
  // Makes [first, end) writable; first is at most the table's end.  Needs n_available() >=
  // n_needed().
  void reserve(std::vector<PageId>& table, int64_t first, int64_t end,
               std::vector<PageCopy>& copies);

  // Positions [first, end) of the table hold the keys and values of tokens[first, end) from now on,
  // and may be found.  A page that became full and exists already is exchanged for that one in the
  // table, and given back.
  void computed(std::vector<PageId>& table, std::span<const int32_t> tokens, std::string_view salt,
                int64_t first, int64_t end);

  // A second table with the same pages.
  std::vector<PageId> fork(const std::vector<PageId>& table);
  // Gives back the pages that positions from n on need; contents stay cached.
  void truncate(std::vector<PageId>& table, int64_t n);
  void release(std::vector<PageId>& table) { truncate(table, 0); }
  // Can the sequence of this table go on at position n, with what is there?
  bool can_go_on(const std::vector<PageId>& table, int64_t n) const;
  // Drops the rows of pages that nobody holds, except the last ones that are not full: a sequence
  // that goes on there needs them.  It must not be called while copies are planned.
  void trim_rows(size_t n_kept = 16);

  // Forgets the contents of all pages that no table holds.
  void clear_cache();

  // The number of tables that hold the page, and the tokens of its known contents.
  int64_t n_holders(PageId page) const { return pages_[static_cast<size_t>(page)].n_holders; }
  std::span<const int32_t> contents(PageId page) const;

  // Throws std::logic_error with the rule that is broken; for tests.
  void check() const;

 private:
  // Orders the pages below one parent by their tokens.
  struct ByTokens {
    using is_transparent = void;
    const PagePool* pool;
    bool operator()(PageId a, PageId b) const;
    bool operator()(PageId a, std::span<const int32_t> tokens) const;
  };
  using Children = std::set<PageId, ByTokens>;
  struct Root {
    Hash128 hash;  // of the salt
    Children children;
  };
  using Roots = std::map<std::string, Root, std::less<>>;
  struct Page {
    explicit Page(const PagePool* pool) : children(ByTokens{pool}) {}
    int64_t n_holders = 0;
    int64_t n_tokens = 0;  // of the known contents; 0: not in the tree
    std::array<int32_t, kPagePositions> tokens;
    PageId parent = kNoPage;
    Roots::iterator root;  // while in the tree
    Hash128 hash;          // of everything up to the page's end, if it is full
    Children children;
    PageId earlier = kNoPage, later = kNoPage;  // in the list of pages that nobody holds
  };
  struct HashOfHash {
    size_t operator()(const Hash128& h) const { return static_cast<size_t>(h.low); }
  };

  Page& at(PageId page) { return pages_[static_cast<size_t>(page)]; }
  const Page& at(PageId page) const { return pages_[static_cast<size_t>(page)]; }
  Children& siblings(const Page& page) {
    return page.parent == kNoPage ? page.root->second.children : at(page.parent).children;
  }
  PageId find_full(const Root* root, PageId parent, const Hash128& hash,
                   std::span<const int32_t> tokens) const;
  bool writable(PageId page, int64_t offset) const;

  PageId allocate();
  void hold(PageId page);
  void drop(PageId page);
  void forget(PageId page);              // its contents
  void shorten(PageId page, int64_t n);  // its contents
  void link(PageId page, bool first_to_go);
  void unlink(PageId page);
  void cut_to_checkpoint(CachedPrefix& prefix) const;

  PageHasher hasher_;
  StateCheckpoints* checkpoints_;
  PageRows rows_;
  std::deque<PageId> open_;  // pages that nobody held when they came here, oldest first
  std::vector<Page> pages_;
  Roots roots_;
  std::unordered_multimap<Hash128, PageId, HashOfHash> full_;
  PageId first_ = kNoPage, last_ = kNoPage;  // of the pages that nobody holds: first to go, last
  int64_t n_available_ = 0;
  PagePoolStats stats_;
};

}  // namespace hrun
