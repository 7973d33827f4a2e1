"""A lock that a forked child finds open: the thread that held it stayed in the parent."""

from __future__ import annotations

import os
import threading
import weakref


class ForkLock:
    """Works like ``threading.Lock``, for ``with``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _reopen(self) -> None:
        self._lock = threading.Lock()


_all: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _reopen_all() -> None:  # before the child has a second thread
    for lock in list(_all):
        lock._reopen()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_all)
