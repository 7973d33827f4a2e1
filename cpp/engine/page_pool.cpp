#include "engine/page_pool.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "engine/state_checkpoints.h"

namespace hrun {
namespace {

using Tokens = std::span<const int32_t>;

void require(bool rule, const char* what) {
  if (!rule) throw std::logic_error(std::string("page pool: ") + what);
}

int64_t common_prefix(Tokens a, Tokens b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// The tokens of page number k.
Tokens page_tokens(Tokens tokens, int64_t k, int64_t end) {
  const int64_t first = k * kPagePositions;
  return tokens.subspan(static_cast<size_t>(first),
                        static_cast<size_t>(std::min(end - first, kPagePositions)));
}

}  // namespace

bool PagePool::ByTokens::operator()(PageId a, PageId b) const {
  const Tokens x = pool->contents(a), y = pool->contents(b);
  const auto order = std::lexicographical_compare_three_way(x.begin(), x.end(), y.begin(), y.end());
  return order != 0 ? order < 0 : a < b;
}

bool PagePool::ByTokens::operator()(PageId a, Tokens tokens) const {
  const Tokens x = pool->contents(a);
  return std::lexicographical_compare(x.begin(), x.end(), tokens.begin(), tokens.end());
}

PagePool::PagePool(int64_t n_pages, StateCheckpoints* checkpoints, uint64_t hash_mask,
                   PageRows rows)
    : hasher_(hash_mask), checkpoints_(checkpoints), rows_(std::move(rows)) {
  if (n_pages < 1 || n_pages > INT32_MAX)
    throw ArgumentError("a pool of {} pages; expected 1 to {}", n_pages, INT32_MAX);
  pages_.reserve(static_cast<size_t>(n_pages));
  for (int64_t i = 0; i < n_pages; ++i) pages_.emplace_back(this);
  for (int64_t i = 0; i < n_pages; ++i) link(static_cast<PageId>(i), false);
}

Tokens PagePool::contents(PageId page) const {
  return {at(page).tokens.data(), static_cast<size_t>(at(page).n_tokens)};
}

// The list of pages that nobody holds, and the tree of contents.

void PagePool::link(PageId id, bool first_to_go) {
  Page& page = at(id);
  page.earlier = first_to_go ? kNoPage : last_;
  page.later = first_to_go ? first_ : kNoPage;
  (page.earlier == kNoPage ? first_ : at(page.earlier).later) = id;
  (page.later == kNoPage ? last_ : at(page.later).earlier) = id;
  ++n_available_;
}

void PagePool::unlink(PageId id) {
  Page& page = at(id);
  (page.earlier == kNoPage ? first_ : at(page.earlier).later) = page.later;
  (page.later == kNoPage ? last_ : at(page.later).earlier) = page.earlier;
  --n_available_;
}

void PagePool::hold(PageId id) {
  if (at(id).n_holders++ == 0) unlink(id);
}

// A table gives its pages back from the last to the first, and a table that holds a page holds its
// parent too.  So in the list every page comes before its parent, and the first one has no
// children.
void PagePool::drop(PageId id) {
  if (--at(id).n_holders > 0) return;
  link(id, at(id).n_tokens == 0);
  if (rows_.drop) open_.push_back(id);
}

// The rows are not dropped at once, because planned copies may still read them.
void PagePool::trim_rows(size_t n_kept) {
  std::deque<PageId> kept;
  for (const PageId id : std::exchange(open_, {})) {
    if (at(id).n_holders > 0 || !rows_.kept(id)) continue;
    const int64_t n = at(id).n_tokens;
    if (n == 0 || n == kPagePositions)
      rows_.drop(id);
    else if (std::find(kept.begin(), kept.end(), id) == kept.end())
      kept.push_back(id);
  }
  for (; kept.size() > n_kept; kept.pop_front()) rows_.drop(kept.front());
  open_ = std::move(kept);
}

PageId PagePool::allocate() {
  require(first_ != kNoPage, "no page left");
  const PageId id = first_;
  if (at(id).n_tokens > 0) {
    ++stats_.n_evictions;
    forget(id);
  }
  hold(id);
  return id;
}

void PagePool::forget(PageId id) {
  Page& page = at(id);
  if (page.n_tokens == 0) return;
  require(page.children.empty(), "contents forgotten before those that follow them");
  if (page.n_tokens == kPagePositions) {
    const auto [begin, end] = full_.equal_range(page.hash);
    full_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == id; }));
  }
  siblings(page).erase(id);
  if (page.root->second.children.empty()) roots_.erase(page.root);
  page.n_tokens = 0;
  if (checkpoints_) checkpoints_->forget_beyond(id, 0);
}

void PagePool::shorten(PageId id, int64_t n) {
  Page& page = at(id);
  if (n == 0) return forget(id);
  require(page.children.empty(), "contents cut before those that follow them");
  if (page.n_tokens == kPagePositions) {
    const auto [begin, end] = full_.equal_range(page.hash);
    full_.erase(std::find_if(begin, end, [&](const auto& entry) { return entry.second == id; }));
  }
  auto node = siblings(page).extract(id);
  page.n_tokens = n;
  siblings(page).insert(std::move(node));
  if (checkpoints_) checkpoints_->forget_beyond(id, n);
}

// The search for cached prefixes.

PageId PagePool::find_full(const Root* root, PageId parent, const Hash128& hash,
                           Tokens tokens) const {
  const auto [begin, end] = full_.equal_range(hash);
  for (auto entry = begin; entry != end; ++entry) {
    const Page& page = at(entry->second);
    if (page.parent == parent && &page.root->second == root &&
        std::equal(tokens.begin(), tokens.end(), page.tokens.begin()))
      return entry->second;
  }
  return kNoPage;
}

CachedPrefix PagePool::lookup(Tokens tokens, std::string_view salt, int64_t at_most) const {
  CachedPrefix prefix;
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return prefix;
  at_most = std::min(at_most, static_cast<int64_t>(tokens.size()));
  const Children* children = &root->second.children;
  PageId parent = kNoPage;
  Hash128 before = root->second.hash;
  int64_t k = 0;
  for (; (k + 1) * kPagePositions <= at_most; ++k) {
    const Tokens wanted = page_tokens(tokens, k, at_most);
    before = hasher_.next(before, wanted);
    const PageId found = find_full(&root->second, parent, before, wanted);
    if (found == kNoPage) break;
    prefix.pages.push_back(found);
    parent = found;
    children = &at(found).children;
  }
  // Among strings in order, those that share most with a string stand beside its place.
  if (k * kPagePositions < at_most) {
    const Tokens wanted = page_tokens(tokens, k, at_most);
    const auto compare = [&](PageId page) {
      const int64_t n = common_prefix(contents(page), wanted);
      if (n > prefix.n_partial) {
        prefix.n_partial = n;
        prefix.partial = page;
      }
    };
    const auto place = children->lower_bound(wanted);
    if (place != children->end()) compare(*place);
    if (place != children->begin()) compare(*std::prev(place));
  }
  if (prefix.partial != kNoPage && rows_.kept && !rows_.kept(prefix.partial)) {
    prefix.partial = kNoPage;
    prefix.n_partial = 0;
  }
  if (checkpoints_) cut_to_checkpoint(prefix);
  return prefix;
}

void PagePool::cut_to_checkpoint(CachedPrefix& prefix) const {
  const auto cut = [&](PageId page, int64_t n) {
    const auto checkpoint = checkpoints_->last(page, n);
    if (!checkpoint) return false;
    // A coded page whose rows are gone can only be used whole.
    if (checkpoint->n < kPagePositions && rows_.kept && !rows_.kept(page)) return false;
    prefix.checkpoint = checkpoint->slot;
    prefix.partial = checkpoint->n < kPagePositions ? page : kNoPage;
    prefix.n_partial = checkpoint->n < kPagePositions ? checkpoint->n : 0;
    if (prefix.partial == kNoPage) prefix.pages.push_back(page);
    return true;
  };
  if (prefix.partial != kNoPage && cut(prefix.partial, prefix.n_partial)) return;
  prefix.partial = kNoPage;
  prefix.n_partial = 0;
  while (!prefix.pages.empty()) {
    const PageId page = prefix.pages.back();
    prefix.pages.pop_back();
    if (cut(page, kPagePositions)) return;
  }
}

// The tables.

int64_t PagePool::n_unheld(const CachedPrefix& prefix) const {
  return std::count_if(prefix.pages.begin(), prefix.pages.end(),
                       [&](PageId page) { return at(page).n_holders == 0; });
}

void PagePool::take(const CachedPrefix& prefix, int64_t n_tokens, std::vector<PageId>& table,
                    std::vector<PageCopy>& copies) {
  require(table.empty(), "a prefix for a table that has pages");
  for (const PageId page : prefix.pages) hold(page);
  table = prefix.pages;
  if (prefix.partial != kNoPage) {
    const Page& source = at(prefix.partial);
    if (source.n_holders == 0 && source.n_tokens == prefix.n_partial) {
      hold(prefix.partial);
      table.push_back(prefix.partial);
    } else {
      const PageId page = allocate();  // the last page left may be the source itself
      if (page != prefix.partial) {
        copies.push_back({prefix.partial, page, prefix.n_partial});
        ++stats_.n_copies;
      }
      table.push_back(page);
    }
  }
  stats_.n_looked_up += n_tokens;
  stats_.n_hits += prefix.n_positions();
}

// Can positions from `offset` on be written without a copy? They can if nobody else holds the page,
// and no contents beyond are worth keeping.
bool PagePool::writable(PageId id, int64_t offset) const {
  const Page& page = at(id);
  return page.n_holders == 1 && (page.n_tokens <= offset || page.children.empty());
}

int64_t PagePool::n_needed(const std::vector<PageId>& table, int64_t first, int64_t end) const {
  const auto n = static_cast<int64_t>(table.size());
  const int64_t k = first / kPagePositions;
  const bool copy =
      k < n && first < end && !writable(table[static_cast<size_t>(k)], first % kPagePositions);
  return std::max<int64_t>(0, pages_of(end) - n) + (copy ? 1 : 0);
}

void PagePool::reserve(std::vector<PageId>& table, int64_t first, int64_t end,
                       std::vector<PageCopy>& copies) {
  require(pages_of(first) <= static_cast<int64_t>(table.size()), "positions left out of a table");
  if (first >= end) return;
  const auto k = static_cast<size_t>(first / kPagePositions);
  const int64_t offset = first % kPagePositions;
  if (k < table.size()) {
    PageId& id = table[k];
    if (writable(id, offset)) {
      if (at(id).n_tokens > offset) shorten(id, offset);
    } else {
      const PageId page = allocate();
      if (offset > 0) {
        copies.push_back({id, page, offset});
        ++stats_.n_copies;
      }
      drop(id);
      id = page;
    }
  }
  while (static_cast<int64_t>(table.size()) < pages_of(end)) table.push_back(allocate());
}

void PagePool::computed(std::vector<PageId>& table, Tokens tokens, std::string_view salt,
                        int64_t first, int64_t end) {
  if (first >= end) return;
  auto root = roots_.find(salt);
  if (root == roots_.end())
    root =
        roots_.emplace(std::string(salt), Root{hasher_.root(salt), Children(ByTokens{this})}).first;
  for (int64_t k = first / kPagePositions; k < pages_of(end); ++k) {
    const PageId id = table[static_cast<size_t>(k)];
    Page& page = at(id);
    const PageId parent = k == 0 ? kNoPage : table[static_cast<size_t>(k - 1)];
    const Tokens now = page_tokens(tokens, k, end);
    require(page.n_holders == 1, "a shared page was written");
    require(parent == kNoPage || at(parent).n_tokens == kPagePositions,
            "a page before is not full");
    require(page.n_tokens <= static_cast<int64_t>(now.size()) &&
                common_prefix(contents(id), now) == page.n_tokens,
            "a page holds other tokens");
    PageId same = kNoPage;
    Hash128 hashed;
    if (now.size() == kPagePositions) {
      hashed = hasher_.next(parent == kNoPage ? root->second.hash : at(parent).hash, now);
      same = find_full(&root->second, parent, hashed, now);
    }
    // The page leaves the order before its tokens change, and comes in again afterwards.
    Children::node_type node;
    if (page.n_tokens > 0) node = siblings(page).extract(id);
    page.n_tokens = 0;
    if (same != kNoPage) {
      ++stats_.n_duplicates;
      if (checkpoints_) checkpoints_->move(id, same);
      hold(same);
      drop(id);
      table[static_cast<size_t>(k)] = same;
      continue;
    }
    page.parent = parent;
    page.root = root;
    std::copy(now.begin(), now.end(), page.tokens.begin());
    page.n_tokens = static_cast<int64_t>(now.size());
    if (node)
      siblings(page).insert(std::move(node));
    else
      siblings(page).insert(id);
    if (now.size() == kPagePositions) {
      page.hash = hashed;
      if (full_.contains(hashed)) ++stats_.n_hash_collisions;
      full_.emplace(hashed, id);
    }
  }
}

std::vector<PageId> PagePool::fork(const std::vector<PageId>& table) {
  for (const PageId page : table) hold(page);
  return table;
}

void PagePool::truncate(std::vector<PageId>& table, int64_t n) {
  while (static_cast<int64_t>(table.size()) > pages_of(n)) {
    drop(table.back());
    table.pop_back();
  }
}

bool PagePool::can_go_on(const std::vector<PageId>& table, int64_t n) const {
  return !rows_.kept || n % kPagePositions == 0 ||
         rows_.kept(table[static_cast<size_t>(n / kPagePositions)]);
}

void PagePool::clear_cache() {
  for (PageId id = first_; id != kNoPage; id = at(id).later) forget(id);
  trim_rows(0);
}

PagePoolStats PagePool::stats() const {
  PagePoolStats stats = stats_;
  stats.n_pages = n_pages();
  stats.n_used = n_pages() - n_available_;
  for (PageId id = first_; id != kNoPage; id = at(id).later)
    ++(at(id).n_tokens > 0 ? stats.n_cached : stats.n_empty);
  return stats;
}

void PagePool::check() const {
  std::vector<char> listed(pages_.size());
  int64_t n_listed = 0;
  PageId earlier = kNoPage;
  for (PageId id = first_; id != kNoPage; earlier = id, id = at(id).later) {
    const Page& page = at(id);
    require(page.n_holders == 0, "a page in use is in the list");
    require(page.earlier == earlier && !listed[static_cast<size_t>(id)], "the list is broken");
    listed[static_cast<size_t>(id)] = 1;
    ++n_listed;
    if (page.n_tokens > 0 && page.parent != kNoPage)
      require(!listed[static_cast<size_t>(page.parent)], "a parent goes before its child");
  }
  require(earlier == last_ && n_listed == n_available_, "the list's end");
  size_t n_full = 0, n_in_tree = 0, n_children = 0;
  for (PageId id = 0; id < n_pages(); ++id) {
    const Page& page = at(id);
    require((page.n_holders == 0) == (listed[static_cast<size_t>(id)] != 0), "a lost page");
    n_children += page.children.size();
    require(page.children.empty() || page.n_tokens == kPagePositions, "children of a part");
    if (page.n_tokens == 0) continue;
    ++n_in_tree;
    const bool top = page.parent == kNoPage;
    const Children& among = top ? page.root->second.children : at(page.parent).children;
    require(among.contains(id), "a page is not among its siblings");
    if (!top) {
      require(at(page.parent).root == page.root, "a page with another salt than its parent");
      require(page.n_holders == 0 || at(page.parent).n_holders > 0, "a page without its parent");
    }
    if (page.n_tokens == kPagePositions) {
      ++n_full;
      const Hash128& before = top ? page.root->second.hash : at(page.parent).hash;
      require(page.hash == hasher_.next(before, contents(id)), "a wrong hash");
      require(find_full(&page.root->second, page.parent, page.hash, contents(id)) == id,
              "a page that cannot be found");
    }
  }
  for (const auto& [salt, root] : roots_) {
    n_children += root.children.size();
    require(!root.children.empty(), "an empty root");
  }
  require(n_full == full_.size() && n_in_tree == n_children, "the index is out of step");
}

}  // namespace hrun
