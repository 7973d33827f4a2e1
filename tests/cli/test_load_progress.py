"""The line that a slow load shows."""

from __future__ import annotations

import io

import pytest

from hrun import Runtime
from hrun.cli.common import LoadProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_within_a_second_then_percent_then_a_clean_line() -> None:
    now = 100.0
    out = Terminal()
    progress = LoadProgress(out, clock=lambda: now)
    progress(1, 8)
    assert out.getvalue() == ""
    now = 101.5
    progress(4, 8)
    assert out.getvalue() == "\rloading: 50 %"
    progress.close()
    assert out.getvalue().endswith("\r\x1b[K")


def test_nothing_beside_a_terminal() -> None:
    now = 0.0
    out = io.StringIO()
    progress = LoadProgress(out, clock=lambda: now)
    now = 9.0
    progress(1, 2)
    progress.close()
    assert out.getvalue() == ""


def test_a_runtime_reports_every_tensor(tiny_model: object) -> None:
    seen: list[tuple[int, int]] = []
    with Runtime(tiny_model(), progress=lambda done, total: seen.append((done, total))):  # type: ignore[operator]
        pass
    assert seen and [d for d, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_an_exception_of_the_callback_ends_the_load(tiny_model: object) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Runtime(tiny_model(), progress=fail)  # type: ignore[operator]
