#include "engine/state_checkpoints.h"

#include <algorithm>

#include "base/error.h"

namespace hrun {

StateCheckpoints::StateCheckpoints(int64_t n_slots, int64_t grid)
    : grid_(grid), slots_(static_cast<size_t>(n_slots)) {
  if (n_slots < 1)
    throw ArgumentError("{} slots for recurrent states; expected 1 or more", n_slots);
  if (grid < kPagePositions || grid % kPagePositions != 0)
    throw ArgumentError("recurrent states kept every {} positions; expected a multiple of {}", grid,
                        kPagePositions);
  for (int64_t i = n_slots - 1; i >= 0; --i) free_.push_back(static_cast<int32_t>(i));
}

int64_t StateCheckpoints::next_stop(int64_t first, int64_t end, int64_t n_prompt,
                                    const std::vector<int64_t>& turn_ends) const {
  int64_t stop = std::min(end, (first / grid_ + 1) * grid_);
  const auto turn = std::upper_bound(turn_ends.begin(), turn_ends.end(), first);
  if (turn != turn_ends.end()) stop = std::min(stop, *turn);
  const int64_t last_page = (n_prompt - 1) / kPagePositions * kPagePositions;
  if (last_page > first) stop = std::min(stop, last_page);
  return stop;
}

int32_t StateCheckpoints::take() {
  if (free_.empty()) {
    if (used_.empty()) return -1;
    drop(used_.front());
  }
  const int32_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void StateCheckpoints::give_back(int32_t slot) { free_.push_back(slot); }

void StateCheckpoints::keep(int32_t slot, PageId page, int64_t n) {
  std::vector<int32_t>& slots = of_page_[page];
  for (const int32_t other : slots)
    if (slots_[static_cast<size_t>(other)].n == n) {
      touch(other);
      return give_back(slot);
    }
  slots.push_back(slot);
  slots_[static_cast<size_t>(slot)] = {page, n, used_.insert(used_.end(), slot)};
}

std::optional<StateCheckpoints::Checkpoint> StateCheckpoints::last(PageId page,
                                                                   int64_t at_most) const {
  std::optional<Checkpoint> best;
  if (const auto found = of_page_.find(page); found != of_page_.end())
    for (const int32_t slot : found->second) {
      const int64_t n = slots_[static_cast<size_t>(slot)].n;
      if (n <= at_most && (!best || n > best->n)) best = Checkpoint{slot, n};
    }
  return best;
}

void StateCheckpoints::touch(int32_t slot) {
  used_.splice(used_.end(), used_, slots_[static_cast<size_t>(slot)].used);
}

void StateCheckpoints::forget(int32_t slot) {
  if (slots_[static_cast<size_t>(slot)].page != kNoPage) drop(slot);
}

void StateCheckpoints::drop(int32_t slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  const auto found = of_page_.find(s.page);
  std::erase(found->second, slot);
  if (found->second.empty()) of_page_.erase(found);
  used_.erase(s.used);
  s.page = kNoPage;
  give_back(slot);
}

void StateCheckpoints::forget_beyond(PageId page, int64_t n) {
  const auto found = of_page_.find(page);
  if (found == of_page_.end()) return;
  const std::vector<int32_t> slots = found->second;
  for (const int32_t slot : slots)
    if (slots_[static_cast<size_t>(slot)].n > n) drop(slot);
}

void StateCheckpoints::move(PageId from, PageId to) {
  const auto found = of_page_.find(from);
  if (found == of_page_.end()) return;
  const std::vector<int32_t> slots = found->second;
  for (const int32_t slot : slots) {
    const int64_t n = slots_[static_cast<size_t>(slot)].n;
    drop(slot);
    free_.pop_back();  // the same slot
    keep(slot, to, n);
  }
}

}  // namespace hrun
