"""Ctrl-C at any moment of reading a line is a KeyboardInterrupt and nothing else."""

from __future__ import annotations

import os
import pty
import select
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


STOPPED = """
import os, signal, sys
reader = os.fork()
if reader == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    from hrun.cli.reader import EditingReader
    text = EditingReader([], [], multiline=False, colors=False).read()
    print("read", repr(text))
    sys.exit(0)
_, status = os.waitpid(reader, os.WUNTRACED)
print("stopped", os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTSTP, flush=True)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(0, reader)
os.kill(reader, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]))
"""


def test_ctrl_z_suspends_and_the_line_is_kept() -> None:
    pytest.importorskip("prompt_toolkit")
    pid, descriptor = pty.fork()
    if pid == 0:
        env = environment(TERM="xterm", COLUMNS="100", LINES="40", PROMPT_TOOLKIT_NO_CPR="1")
        os.execve(sys.executable, [sys.executable, "-c", STOPPED], env)
    shown = b""

    def until(words: bytes) -> None:
        nonlocal shown
        while words not in shown:
            assert select.select([descriptor], [], [], 20)[0], shown[-2000:]
            shown += os.read(descriptor, 65536)

    until(b">")
    os.write(descriptor, b"hello\x1a")
    until(b"stopped True")
    os.write(descriptor, b" again\r")
    until(b"read 'hello again'")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(descriptor)
