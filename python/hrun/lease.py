"""Who may use a session: one user at a time, in the order they came, without ever waiting for an idle one."""

from __future__ import annotations

import threading
import time
from collections import deque

IDLE_SECONDS = 0.1  # after which a stream that nobody reads makes way for another thread


class Lease:
    """A lock for work that is done in steps, such as a stream whose consumer may stop reading between two tokens.

    A user acquires before each step, pauses after it and releases at the end.  A paused user keeps its claim, so that
    steps of two users do not alternate, unless it could block others: for a call from its own thread it makes way at
    once (that thread cannot read the stream while it waits), for other threads after IDLE_SECONDS.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: object | None = None
        self._working = False
        self._thread = 0
        self._paused_at = 0.0
        self._waiting: deque[object] = deque()

    def acquire(self, user: object) -> bool:
        """Waits for the session.  True if nobody else has used it since this user's last step."""
        with self._changed:
            if self._holder is user and not self._working:
                self._start(user)
                return True
            ticket = object()
            try:
                self._waiting.append(ticket)
                while self._waiting[0] is not ticket or not self._free():
                    self._changed.wait(
                        IDLE_SECONDS / 2 if self._holder is not None and not self._working else None
                    )
            finally:  # also after Ctrl-C, which may come before the ticket is in the queue
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                self._changed.notify_all()
            self._start(user)
            return False

    def pause(self, user: object) -> None:
        """After a step: the user keeps its claim but does not work."""
        with self._changed:
            if self._holder is user:
                self._working = False
                self._paused_at = time.monotonic()
                self._changed.notify_all()

    def release(self, user: object) -> None:
        """The user is done, whether or not it still holds the lease."""
        with self._changed:
            if self._holder is user:
                self._holder = None
                self._working = False
                self._changed.notify_all()

    def _start(self, user: object) -> None:
        self._holder, self._working, self._thread = user, True, threading.get_ident()

    def _free(self) -> bool:
        if self._holder is None:
            return True
        if self._working:
            return False
        return (
            self._thread == threading.get_ident()
            or time.monotonic() - self._paused_at > IDLE_SECONDS
        )
