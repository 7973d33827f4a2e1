// Carries out the plans of a Scheduler without a model.
//
// A position of a page holds a hash of the whole prefix up to it, so that any page shared wrongly,
// copied at the wrong time or filled in the wrong order is found when a row reads it.  Recurrent
// states hold the same hash.  Tokens are drawn from the hash: equal prefixes go on equally.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/scheduler.h"
#include "random_bits.h"

inline int64_t random_below(int64_t n) { return static_cast<int64_t>(random_bits() >> 4) % n; }

class FakeExecutor {
 public:
  static constexpr int32_t kVocabulary = 3;
  static constexpr uint64_t kEmpty = 0x9e3779b97f4a7c15ull;

  FakeExecutor(int64_t n_pages, int64_t n_slots, int64_t n_log_rows = 0)
      : pages_(static_cast<size_t>(n_pages * hrun::kPagePositions)),
        states_(static_cast<size_t>(n_slots)),
        log_(static_cast<size_t>(n_log_rows)) {}

  static uint64_t step(uint64_t before, int32_t token) {
    uint64_t h = (before ^ static_cast<uint64_t>(token + 1)) * 0xff51afd7ed558ccdull;
    return h ^ (h >> 29);
  }
  static int32_t drawn(uint64_t hash) { return static_cast<int32_t>((hash >> 33) % kVocabulary); }

  // The results that were handed out for one sequence.
  struct Delivered {
    std::vector<int64_t> rows;  // positions whose logits were wanted, in order
    int64_t n_rows = 0;         // computed, again or not
  };

  // Runs all of the work, or only its first n_work items, as if the device then failed.
  void run(const hrun::Scheduler& scheduler, const hrun::StepPlan& plan, int64_t n_work = -1) {
    for (const auto& copy : plan.page_copies) {
      if (n_work-- == 0) return;
      require(
          copy.from != copy.to && copy.n_positions > 0 && copy.n_positions <= hrun::kPagePositions,
          "a copy of nothing");
      std::copy_n(page(copy.from), copy.n_positions, page(copy.to));
      // Nothing may rely on the positions behind the copied ones.
      std::fill(page(copy.to) + copy.n_positions, page(copy.to) + hrun::kPagePositions, 0xdead);
      rows_.contains(copy.from) ? void(rows_.insert(copy.to)) : void(rows_.erase(copy.to));
    }
    for (const auto& redo : plan.state_redos) {
      if (n_work-- == 0) return;
      for (int64_t i = 0; i < redo.n; ++i)
        state(redo.slot) = step(state(redo.slot), log_.at(static_cast<size_t>(redo.log_row + i)));
    }
    for (const auto& copy : plan.state_copies) {
      if (n_work-- == 0) return;
      state(copy.to) = copy.from < 0 ? kEmpty : state(copy.from);
    }
    std::vector<hrun::Span> spans = plan.spans;
    for (size_t i = spans.size(); i > 1; --i)  // their order must not matter
      std::swap(spans[i - 1], spans[static_cast<size_t>(random_below(static_cast<int64_t>(i)))]);
    for (const hrun::Span& span : spans) {
      if (n_work-- == 0) return;
      run(scheduler.sequence(span.id), span);
    }
    for (const auto& copy : plan.state_saves) state(copy.to) = state(copy.from);
  }

  // The tokens that follow from a span's rows: accepted guesses and one more.
  std::vector<int32_t> draw(const hrun::Sequence& s, const hrun::Span& span) const {
    uint64_t hash = chain(s.tokens, s.size());
    std::vector<int32_t> tokens;
    for (int64_t i = 0;; ++i) {
      tokens.push_back(drawn(hash));
      if (i == span.n_draft || tokens.back() != s.draft[static_cast<size_t>(i)]) return tokens;
      hash = step(hash, tokens.back());
    }
  }

  static uint64_t chain(const std::vector<int32_t>& tokens, int64_t n) {
    uint64_t hash = kEmpty;
    for (int64_t i = 0; i < n; ++i) hash = step(hash, tokens[static_cast<size_t>(i)]);
    return hash;
  }

  std::map<hrun::SequenceId, Delivered> delivered;

  // Behaves like caches whose pages are coded when they are full.
  hrun::PageRows page_rows() {
    return {[this](hrun::PageId id) { return rows_.contains(id); },
            [this](hrun::PageId id) { rows_.erase(id); }};
  }
  bool coded = false;
  size_t n_pages_with_rows() const { return rows_.size(); }

 private:
  static void require(bool rule, const char* what) {
    if (!rule) throw std::logic_error(std::string("executor: ") + what);
  }

  void run(const hrun::Sequence& s, const hrun::Span& span) {
    require(span.n_rows > 0 && span.n_draft < span.n_rows, "a span without rows");
    require(span.first == s.n_computed, "rows that do not follow what is computed");
    const int64_t end = span.first + span.n_rows;
    require(end <= static_cast<int64_t>(s.pages.size()) * hrun::kPagePositions,
            "rows without a page");
    require(span.n_draft == 0 || end - span.n_draft == s.size(), "guesses before the last token");
    if (coded) {
      const auto of = [&](int64_t k) { return s.pages[static_cast<size_t>(k)]; };
      const int64_t k = span.first / hrun::kPagePositions;
      for (int64_t i = k - 2; i >= 0 && rows_.contains(of(i)); --i) rows_.erase(of(i));
      require(span.first % hrun::kPagePositions == 0 || rows_.contains(of(k)),
              "a page is written to whose rows are gone");
      for (int64_t i = k; i * hrun::kPagePositions < end; ++i) rows_.insert(of(i));
    }
    uint64_t hash = kEmpty;
    for (int64_t i = 0; i < end; ++i) {
      const int32_t token = i < s.size() ? s.tokens[static_cast<size_t>(i)]
                                         : s.draft[static_cast<size_t>(i - s.size())];
      hash = step(hash, token);
      uint64_t& at =
          page(s.pages[static_cast<size_t>(i / hrun::kPagePositions)])[i % hrun::kPagePositions];
      if (i < span.first)
        require(at == hash, "a page holds something else than the sequence's prefix");
      else
        at = hash;
    }
    if (s.state_slot >= 0) {
      require(state(s.state_slot) == chain(s.tokens, span.first), "a state of another prefix");
      state(span.state_to < 0 ? s.state_slot : span.state_to) = hash;
      require(span.n_draft == 0 || span.state_to >= 0, "guesses that cannot be taken back");
      for (int64_t i = span.first; i < end && span.state_to >= 0; ++i)
        log_.at(static_cast<size_t>(span.log_row + i - span.first)) =
            i < s.size() ? s.tokens[static_cast<size_t>(i)]
                         : s.draft[static_cast<size_t>(i - s.size())];
    }
    Delivered& d = delivered[s.id];
    d.n_rows += span.n_rows;
    if (span.logits == hrun::LogitRows::last) d.rows.push_back(end - 1);
    if (span.logits == hrun::LogitRows::all)
      for (int64_t i = span.first; i < end - span.n_draft; ++i) d.rows.push_back(i);
  }

  uint64_t* page(hrun::PageId id) {
    return &pages_.at(static_cast<size_t>(id * hrun::kPagePositions));
  }
  uint64_t& state(int32_t slot) { return states_.at(static_cast<size_t>(slot)); }

  std::vector<uint64_t> pages_;
  std::vector<uint64_t> states_;
  std::vector<int32_t> log_;
  std::set<hrun::PageId> rows_;
};

inline int failures = 0;
inline void check(bool ok, const std::string& what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what.c_str());
}
