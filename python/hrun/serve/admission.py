"""Admission decides whether a request may start work: a bounded queue, a bound per key, and the
time at which a refused client may come back.
"""

from __future__ import annotations

import math
import time
from collections import Counter

from hrun.serve.errors import ApiError


class Ticket:
    """A request's place: left at the end of a ``with``, or of the stream that it was handed to."""

    def __init__(self, admission: Admission, n_choices: int, key: str) -> None:
        self._admission = admission
        self._n = n_choices
        self._key = key
        self._start = time.monotonic()
        self._kept = self._left = False
        admission.n_choices += n_choices
        admission.n_requests += 1
        admission.of_key[key] += 1

    def keep(self) -> None:
        """Outlives the ``with``: someone else will call leave()."""
        self._kept = True

    def leave(self) -> None:
        """Makes room; a second time nothing."""
        if self._left:
            return
        self._left = True
        admission = self._admission
        admission.n_choices -= self._n
        admission.n_requests -= 1
        admission.of_key[self._key] -= 1
        if not admission.of_key[self._key]:
            del admission.of_key[self._key]
        admission.took((time.monotonic() - self._start) / self._n)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.leave()


class Admission:
    """Counts choices (sequences) from the first look at a request to its end; used by one event loop."""

    def __init__(self, n_parallel: int, max_queue: int, max_per_key: int) -> None:
        self.n_parallel = n_parallel
        self.max_queue = max_queue
        self.max_per_key = max_per_key
        self.n_choices = 0
        self.n_requests = 0
        self.n_refused = 0
        self.draining = False
        self.of_key: Counter[str] = Counter()
        self._seconds = 1.0  # of a choice, smoothed
        self._seen = False

    def enter(self, n_choices: int, key: str) -> Ticket:
        """The place of one request.  Raises ApiError 429 where there is no room, 503 while the server ends."""
        if self.draining:
            raise draining()
        if self.max_per_key and self.of_key[key] >= self.max_per_key:
            self.n_refused += 1
            raise ApiError(
                429,
                f"this key has {self.of_key[key]} requests under way, the limit is {self.max_per_key}",
                code="rate_limit_exceeded",
                headers={"Retry-After": self.retry_after()},
            )
        room = self.n_parallel + self.max_queue
        if n_choices > room:
            raise ApiError(
                400,
                f"the request asks for {n_choices} sequences, the server takes {room} at a time",
                param="n",
            )
        if self.n_choices + n_choices > room:
            self.n_refused += 1
            raise ApiError(
                429,
                f"the queue is full: {self.n_choices} sequences are computed or wait, the limit is {room}",
                code="queue_full",
                headers={"Retry-After": self.retry_after()},
            )
        return Ticket(self, n_choices, key)

    def retry_after(self) -> str:
        """Returns the whole seconds until some waiting requests are likely to be done, by the time
        that requests took of late.
        """
        turns = max(self.n_choices, 1) / max(self.n_parallel, 1)
        return str(min(max(math.ceil(self._seconds * turns / 2), 1), 60))

    def took(self, seconds: float) -> None:
        """A choice was done after so long."""
        self._seconds = 0.9 * self._seconds + 0.1 * seconds if self._seen else seconds
        self._seen = True


def draining() -> ApiError:
    """The server is about to end."""
    return ApiError(
        503, "the server is shutting down", code="draining", headers={"Retry-After": "5"}
    )
