"""A record of the prompts in each replica's cache, as far as the sender of the prompts can know."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

R = TypeVar("R", bound=Hashable)


class PrefixMap(Generic[R]):
    """Remembers where pages of prompts went.  A page's key stands for it and all before it (``hrun._core.PageHasher``).

    A wrong guess costs the time to compute a prompt again, never an answer.
    """

    def __init__(self, capacity: int = 1 << 17, imbalance: int = 8) -> None:
        """``imbalance``: a replica is asked for its cache only if it has at most so many more
        requests than the least loaded one.
        """
        self._capacity = capacity
        self._imbalance = imbalance
        self._replica_of: OrderedDict[bytes, R] = OrderedDict()  # the oldest first

    def ranked(self, keys: Sequence[bytes], loads: Mapping[R, int]) -> list[R]:
        """All replicas of ``loads`` (requests under way), the one to ask first."""
        order = sorted(loads, key=lambda replica: loads[replica])  # stable: of equals the first
        found = self._longest(keys, loads)
        if found is not None and loads[found] <= loads[order[0]] + self._imbalance:
            order.remove(found)
            order.insert(0, found)
        return order

    def sent(self, keys: Sequence[bytes], replica: R) -> None:
        """A prompt of these pages went there."""
        for key in keys:
            self._replica_of[key] = replica
            self._replica_of.move_to_end(key)
        while len(self._replica_of) > self._capacity:
            self._replica_of.popitem(last=False)

    def forget(self, replica: R) -> None:
        """Forgets a replica that is gone, and its cache with it."""
        for key in [k for k, r in self._replica_of.items() if r == replica]:
            del self._replica_of[key]

    def _longest(self, keys: Sequence[bytes], loads: Mapping[R, int]) -> R | None:
        for key in reversed(keys):
            replica = self._replica_of.get(key)
            if replica is not None and replica in loads:
                return replica
        return None
