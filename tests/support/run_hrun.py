"""Helpers of the command tests: commands as child processes, and a terminal for them to talk to."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hrun

PACKAGE = Path(hrun.__file__).resolve().parents[1]


def environment(**changes: str | None) -> dict[str, str]:
    """This environment, with the package under test first; None removes a variable."""
    paths = [str(PACKAGE), os.environ.get("PYTHONPATH", "")]
    merged: dict[str, str | None] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **changes,
    }
    return {k: v for k, v in merged.items() if v is not None}


def command(name: str) -> list[str]:
    """Returns the command that runs hrun, hrun-inspect, ... without its installed script."""
    module = {"hrun": "hrun"}.get(name, f"hrun.cli.{name.removeprefix('hrun-')}")
    return [sys.executable, "-m", module]


def run_command(
    name: str, *arguments: object, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("env", environment())
    return subprocess.run(
        [*command(name), *map(str, arguments)], capture_output=True, timeout=120, **options
    )


class TerminalSession:
    """A command in a pseudo-terminal; ``expect`` reads until a pattern shows up in what is on the screen."""

    def __init__(self, arguments: Sequence[object], **changes: str | None) -> None:
        self.seen = ""
        self._at = 0
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            terminal = {
                "TERM": "xterm",
                "COLUMNS": "100",
                "LINES": "40",
                "PROMPT_TOOLKIT_NO_CPR": "1",
            }
            env = environment(**{**terminal, **changes})
            os.execve(sys.executable, [*command("hrun"), *map(str, arguments)], env)

    def send(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def line(self, text: str) -> None:
        self.send(text + "\r")

    def expect(self, pattern: str, seconds: float = 60) -> str:
        """Waits for the pattern.  Returns the text shown since the last call, up to and including
        the pattern.
        """
        deadline = time.monotonic() + seconds
        while True:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r", "", self.seen)
            if found := re.compile(pattern).search(plain, self._at):
                part = plain[self._at : found.end()]
                self._at = found.end()
                return part
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {pattern!r}, saw {plain[self._at :]!r}"
            if select.select([self._descriptor], [], [], min(left, 1))[0]:
                try:
                    data = os.read(self._descriptor, 65536)
                except OSError:
                    data = b""
                assert data, f"the command ended; waited for {pattern!r}, saw {plain[self._at :]!r}"
                self.seen += data.decode("utf-8", "replace")

    def wait(self, seconds: float = 30) -> int:
        """The exit code, as a shell would show it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._descriptor], [], [], 0.02)[0]:
                try:
                    self.seen += os.read(self._descriptor, 65536).decode("utf-8", "replace")
                except OSError:
                    pass
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running; saw {self.seen[-500:]!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        os.close(self._descriptor)
