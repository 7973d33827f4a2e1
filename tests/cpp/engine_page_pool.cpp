// The page pool: pages that are shared, copied, kept and given up.
#include "engine/page_pool.h"

#include <cstdio>
#include <numeric>
#include <string>

#include "fake_executor.h"

namespace {

using namespace hrun;
using Table = std::vector<PageId>;
using Copies = std::vector<PageCopy>;

std::vector<int32_t> count(int64_t n, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Makes a table in which `tokens` are computed, however many of them were cached.  `copies` gets
// the copies that this took.
Table fill(PagePool& pool, const std::vector<int32_t>& tokens, const std::string& salt = "",
           Copies* copies = nullptr) {
  Table table;
  Copies made;
  const auto n = static_cast<int64_t>(tokens.size());
  const CachedPrefix prefix = pool.lookup(tokens, salt, n - 1);
  pool.take(prefix, n, table, made);
  pool.reserve(table, prefix.n_positions(), n, made);
  pool.computed(table, tokens, salt, prefix.n_positions(), n);
  pool.check();
  if (copies) *copies = made;
  return table;
}

int64_t cached(const PagePool& pool, const std::vector<int32_t>& tokens,
               const std::string& salt = "") {
  return pool.lookup(tokens, salt, static_cast<int64_t>(tokens.size()) - 1).n_positions();
}

void reuse_is_exact_to_the_token() {
  PagePool pool(16);
  const auto tokens = count(200);
  Table table = fill(pool, tokens);
  check(cached(pool, tokens) == 199, "all but the last token");
  check(cached(pool, count(64)) == 63, "all but the last token, in a full page");
  check(cached(pool, count(65)) == 64, "a full page");
  for (int64_t differs : {0, 1, 63, 64, 100, 191, 192, 198}) {
    auto other = tokens;
    other[static_cast<size_t>(differs)] = -1;
    check(cached(pool, other) == differs, "up to the first other token");
  }
  auto longer = count(400);
  check(cached(pool, longer) == 200, "the whole of a shorter one");
  pool.release(table);
  pool.check();
  check(cached(pool, longer) == 200, "the same after it was given back");
  check(pool.stats().n_cached == 4 && pool.stats().n_empty == 12, "contents are kept");
}

// Among many texts that begin alike, the pool finds the one that shares most.
void the_longest_of_many() {
  PagePool pool(512);
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> text(static_cast<size_t>(1 + random_below(100)));
    for (auto& token : text) token = static_cast<int32_t>(random_below(2));
    Table table = fill(pool, text);
    pool.release(table);
    texts.push_back(text);
  }
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> text(static_cast<size_t>(2 + random_below(100)));
    for (auto& token : text) token = static_cast<int32_t>(random_below(2));
    int64_t longest = 0;
    for (const auto& other : texts)
      longest = std::max<int64_t>(
          longest, std::mismatch(text.begin(), text.end() - 1, other.begin(), other.end()).first -
                       text.begin());
    check(cached(pool, text) == longest, "the longest common beginning");
  }
}

void salts_are_apart() {
  PagePool pool(16);
  fill(pool, count(100), "a");
  check(cached(pool, count(100), "a") == 99, "the same salt");
  check(cached(pool, count(100), "b") == 0 && cached(pool, count(100)) == 0, "another salt");
}

// With a hash of one bit nearly everything collides: tokens and the page before decide.
void collisions_do_no_harm() {
  PagePool pool(64, nullptr, 1);
  const auto page = count(64);
  std::vector<std::vector<int32_t>> texts;
  for (int32_t i = 0; i < 8; ++i) {
    auto text = count(64, 1000 * i);  // the second page is the same everywhere
    text.insert(text.end(), page.begin(), page.end());
    text.push_back(i);
    texts.push_back(text);
    fill(pool, text);
  }
  check(pool.stats().n_hash_collisions > 0, "hashes collide");
  for (size_t i = 0; i < texts.size(); ++i) {
    const CachedPrefix prefix = pool.lookup(texts[i], "", 129);
    check(prefix.pages.size() == 2 && prefix.n_partial == 1, "found among collisions");
    for (size_t k = 0; k < prefix.pages.size(); ++k)
      for (int64_t at = 0; at < kPagePositions; ++at)
        check(pool.contents(prefix.pages[k])[static_cast<size_t>(at)] ==
                  texts[i][k * kPagePositions + static_cast<size_t>(at)],
              "its own tokens");
    for (size_t j = 0; j < i; ++j)
      check(pool.lookup(texts[j], "", 129).pages[1] != prefix.pages[1],
            "the same page after another one is another page");
  }
}

void partial_pages_are_copied_or_taken() {
  PagePool pool(8);
  const auto tokens = count(100);
  Copies copies;
  Table first = fill(pool, tokens);
  auto longer = count(120);
  Table second = fill(pool, longer, "", &copies);
  check(copies == Copies{{first[1], second[1], 36}}, "a page in use is copied");
  check(pool.stats().n_copies == 1, "and counted");
  check(first[0] == second[0] && pool.n_holders(first[0]) == 2, "a full page is shared");
  pool.release(first);
  pool.release(second);
  // Nobody holds them: the one that ends where the prompt goes on is taken, without a copy.
  Table third = fill(pool, count(150), "", &copies);
  check(copies.empty() && third[1] == second[1], "a page that nobody holds is taken over");
  pool.release(third);
  auto other = count(110);
  other[90] = -1;
  Table fourth = fill(pool, other, "", &copies);
  check(copies.size() == 1 && copies[0].n_positions == 26, "one that goes on otherwise is copied");
  check(cached(pool, count(150)) == 149, "and stays as it is");
  pool.release(fourth);

  // The source is the last page that could be given out: it is cut.
  PagePool tiny(1);
  Table table = fill(tiny, count(50));
  tiny.release(table);
  auto cut = count(40);
  cut[30] = -1;
  table = fill(tiny, cut, "", &copies);
  check(copies.empty() && cached(tiny, count(50)) == 30, "cut where there is no other page");
}

void oldest_tail_goes_first() {
  PagePool pool(6);
  Table a = fill(pool, count(128, 0));
  Table b = fill(pool, count(128, 1000));
  pool.release(a);
  pool.release(b);
  Table c = fill(pool, count(192, 2000));  // two empty pages and one of a
  check(pool.stats().n_evictions == 1, "empty pages first");
  check(cached(pool, count(129, 0)) == 64, "the tail of the older one went");
  check(cached(pool, count(129, 1000)) == 128, "the younger one is whole");
  Table again = fill(pool, count(65, 0));  // uses a's head, takes one of the others
  pool.release(again);
  pool.release(c);
  Table d = fill(pool, count(64, 3000));
  check(cached(pool, count(129, 1000)) < 128 && cached(pool, count(65, 0)) == 64,
        "use makes a page young");
  pool.release(d);
  pool.check();
}

void forks_write_apart() {
  PagePool pool(8);
  auto tokens = count(100);
  Table parent = fill(pool, tokens);
  Table child = pool.fork(parent);
  check(pool.stats().n_used == 2, "a fork needs no page");
  check(pool.n_needed(child, 100, 101) == 1 && pool.n_needed(child, 100, 129) == 2,
        "but one to write");
  Copies copies;
  pool.reserve(child, 100, 101, copies);
  check(copies == Copies{{parent[1], child[1], 36}} && child[1] != parent[1], "it is a copy");
  check(pool.n_needed(parent, 100, 101) == 0, "the last holder writes in place");
  pool.reserve(parent, 100, 101, copies);
  check(copies.size() == 1, "without a copy");
  auto other = tokens;
  tokens.push_back(1);
  other.push_back(2);
  pool.computed(parent, tokens, "", 100, 101);
  pool.computed(child, other, "", 100, 101);
  pool.check();
  check(pool.contents(parent[1]).back() == 1 && pool.contents(child[1]).back() == 2, "apart");
}

void equal_pages_become_one() {
  PagePool pool(8);
  const auto tokens = count(128);
  Table a, b;
  Copies copies;
  pool.reserve(a, 0, 128, copies);
  pool.reserve(b, 0, 128, copies);
  pool.computed(a, tokens, "", 0, 128);
  pool.computed(b, tokens, "", 0, 100);
  check(b[0] == a[0] && b[1] != a[1] && pool.stats().n_used == 3, "the first is one");
  pool.computed(b, tokens, "", 100, 128);
  check(b == a && pool.stats().n_used == 2 && pool.stats().n_duplicates == 2, "both are one");
  pool.check();
}

void cuts() {
  PagePool pool(8);
  auto tokens = count(200);
  Table table = fill(pool, tokens);
  pool.truncate(table, 70);
  check(table.size() == 2 && pool.stats().n_used == 2, "pages beyond are given back");
  check(cached(pool, tokens) == 199, "but found while they last");
  // The page of position 70 has children that are cached: writing needs another.
  check(pool.n_needed(table, 70, 71) == 1, "cached contents are not written over");
  Copies copies;
  const PageId before = table[1];
  pool.reserve(table, 70, 71, copies);
  check(copies == Copies{{before, table[1], 6}}, "the rest is copied");
  tokens[70] = -1;
  pool.computed(table, tokens, "", 70, 71);
  check(cached(pool, count(200)) == 199, "the old text is still found");
  // Without children it is cut in place.
  pool.truncate(table, 66);
  check(pool.n_needed(table, 66, 67) == 0, "a last page is cut in place");
  pool.reserve(table, 66, 67, copies);
  check(copies.size() == 1 && pool.contents(table[1]).size() == 2, "without a copy");
  pool.check();
}

void wrong_use_is_told() {
  PagePool pool(2);
  Table table;
  Copies copies;
  const auto refused = [&](auto&& act) {
    try {
      act();
    } catch (const std::logic_error&) { return true; }
    return false;
  };
  check(refused([&] { pool.reserve(table, 0, 129, copies); }), "more pages than there are");
  Table other = {0};
  PagePool fresh(4);
  check(refused([&] { fresh.reserve(other, 65, 66, copies); }), "positions left out");
  bool told = false;
  try {
    PagePool none(0);
  } catch (const ArgumentError&) { told = true; }
  check(told, "a pool without pages");
}

}  // namespace

int main() {
  reuse_is_exact_to_the_token();
  the_longest_of_many();
  salts_are_apart();
  collisions_do_no_harm();
  partial_pages_are_copied_or_taken();
  oldest_tail_goes_first();
  forks_write_apart();
  equal_pages_become_one();
  cuts();
  wrong_use_is_told();
  return failures == 0 ? 0 : 1;
}
