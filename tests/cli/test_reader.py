"""Ctrl-C at any moment of reading a line is a KeyboardInterrupt and nothing else."""

from __future__ import annotations

import os
import pty
import sys

import pytest
from run_hrun import environment

STORM = """
import os, random, signal, sys, threading, time
from hrun.cli.reader import EditingReader

reader = EditingReader([], [], multiline=False, colors=False)
end, seen, others = time.monotonic() + 2, 0, []

def strike():
    while time.monotonic() < end:
        time.sleep(random.random() * 0.008)
        os.kill(os.getpid(), signal.SIGINT)

striker = threading.Thread(target=strike)
signal.signal(signal.SIGINT, lambda *_: None)  # between two reads
striker.start()
while time.monotonic() < end - 0.1:
    try:
        reader.read()
    except KeyboardInterrupt:
        seen += 1
    except BaseException as other:
        others.append(repr(other))
striker.join()
print("interrupts", seen > 20, "others", others)
"""


def test_interrupts_during_the_start_and_end_of_the_editor() -> None:
    pytest.importorskip("prompt_toolkit")
    pid, descriptor = pty.fork()
    if pid == 0:
        env = environment(TERM="xterm", COLUMNS="100", LINES="40", PROMPT_TOOLKIT_NO_CPR="1")
        os.execve(sys.executable, [sys.executable, "-c", STORM], env)
    shown = b""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # the child has left
            break
        shown += data
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(descriptor)
    assert status == 0, shown[-2000:]
    assert b"interrupts True others []" in shown
    assert b"Traceback" not in shown
