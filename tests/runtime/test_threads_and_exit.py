"""Threads, forks and the end of the interpreter, in whatever state a thread is: no deadlock, no crash, no stray word.

HRUN_STRESS_ROUNDS repeats each ending that often (1).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import hrun
from hrun import Runtime, _core

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("HRUN_STRESS_ROUNDS", "1"))
PACKAGE = str(Path(hrun.__file__).resolve().parents[1])
CHILD_TEMPLATE = "{% macro show(m) %}[{{ m.content }}]{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}"

# The states that a thread may be in; each goes on for ever.
STATES = {
    "generate": "rt.generate('a b c', max_tokens=30, ignore_eos=True)",
    "stream": "for piece in rt.generate('a', max_tokens=30, ignore_eos=True, stream=True): pass",
    "logits": "rt.logits([5] * 200)",
    "chat": "rt.chat([{'role': 'user', 'content': 'hello'}], max_tokens=2)",
    "cancel": "rt.cancel(); rt.generate('a b c', max_tokens=3)",
    "forward": "session.truncate(0); session.forward([5] * 4000, logits='none')",
    "all logits": "session.truncate(0); session.forward([5] * 300, logits='all')",
    "next": "session.truncate(0); session.next([5] * 60, sampler)",
    "sample": "session.truncate(0); session.forward([5]); sampler.sample(session)",
    "load": "_core.Model.load(sys.argv[1])",
    "load with progress": "_core.Model.load(sys.argv[1], progress=lambda done, total: time.sleep(0.02))",
    "open a session": "_core.Session(rt.model, 256)",
    "observe": "session.truncate(0); session.forward([5] * 30, 'none', moments); [i.sample() for i in moments.inputs]",
    "encode": "_core.encode('RTQ3', weights)",
    "tokenize": "rt.tokenize('some words ' * 500)",
    "render": "worker.render([{'role': 'user', 'content': 'hello'}])",
    "write": "w = _core.GGUFWriter(sys.argv[2]); w.add_tensor('t', [256, 4096], 'F32'); w.write_tensor('t', raw); w.finish()",
}

SETUP = """
import faulthandler, os, signal, sys, threading, time
faulthandler.register(signal.SIGALRM, chain=True)  # a deadlock shows where, and ends
signal.alarm(20)
import numpy as np
import hrun
from hrun import Runtime, _core
from hrun.chat_template import ChatTemplate

rt = Runtime(sys.argv[1], n_threads=2, device="cpu")
session = _core.Session(rt.model, 4096)
sampler = _core.Sampler(seed=1)
moments = _core.MomentCollector(rt.model)
weights = np.random.default_rng(0).standard_normal((40, 1024), np.float32)
raw = np.zeros(256 * 4096 * 4, np.uint8)
worker = ChatTemplate(sys.argv[3])
busy = threading.Barrier(3)

def work(begun):
    first = True
    while True:
        if first and begun is not None:
            begun.wait()
            first = False
        try:
            STATE
        except (hrun.Cancelled, hrun.ContextOverflowError, hrun.ArgumentError):  # another thread did
            pass

def start(begun=None):
    for _ in range(2):
        threading.Thread(target=work, args=(begun,), daemon=True).start()
"""

ENDINGS = {
    "return": ("start(busy); busy.wait(); time.sleep(DELAY)", 0),
    "sys.exit in a handler": (
        "import atexit; atexit.register(lambda: rt.cancel()); start(busy); busy.wait(); time.sleep(DELAY); sys.exit(3)",
        3,
    ),
    # Nothing asks the threads to end here.  This tests the wall that catches threads which CPython
    # ends by force.
    "no hook": (
        "import atexit; worker.close(); atexit._clear(); start(busy); busy.wait(); time.sleep(DELAY)",
        0,
    ),
    "forks": (
        """
start(busy); busy.wait(); time.sleep(DELAY)
for i in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(15)
        assert rt.tokenize("some words")
        assert worker.render([{"role": "user", "content": "x"}]) == "[x]"
        try:
            rt.generate("a")
        except hrun.GenerationError as error:
            assert "fork" in str(error)
        for use in (lambda: session.truncate(0), lambda: session.forward([1]), lambda: sampler.accept(1)):
            try:
                use()
            except hrun.DeviceError as error:
                assert "fork" in str(error)
        try:
            rt.cancel()
        except hrun.GenerationError as error:
            assert "fork" in str(error)
        rt.close()
        with Runtime(sys.argv[1], n_threads=1, device="cpu") as own:
            assert own.generate("a b c", max_tokens=2, ignore_eos=True).tokens
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert worker.render([{"role": "user", "content": "y"}]) == "[y]"
""",
        0,
    ),
}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=4096)


def run(script: str, *arguments: object) -> tuple[int, str]:
    """Its exit code and what it said; whatever it left running is ended."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "ignore", "-c", script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": PACKAGE},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return code, said.read()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("state", STATES)
def test_the_process_ends_as_it_should(
    state: str, ending: str, model: Path, tmp_path: Path
) -> None:
    script, code = ENDINGS[ending]
    script = SETUP.replace("STATE", STATES[state]) + script
    for i in range(ROUNDS):
        delay = 0.01 + 0.013 * (i + len(state) % 7)
        script_now = script.replace("DELAY", f"{delay:.3f}")
        assert run(script_now, model, tmp_path / "out.gguf", CHILD_TEMPLATE) == (code, "")


CROWD = """
def job(what):
    def go():
        while time.monotonic() < end:
            try: what()
            except (hrun.Cancelled, hrun.ArgumentError, hrun.GenerationError): pass
            except BaseException as error: wrong.append(repr(error))
    return threading.Thread(target=go)
wrong, end = [], time.monotonic() + 1.5
"""


def crowd(model: Path, tmp_path: Path, *jobs: str) -> tuple[int, str]:
    """The jobs, each in a thread of its own, for a while; the process fails where one of them never returns."""
    script = SETUP.replace("STATE", "pass") + CROWD
    script += f"threads = [job(lambda: ({')), job(lambda: ('.join(jobs)}))]\n"
    script += "[t.start() for t in threads]; [t.join() for t in threads]\nprint(wrong)\n"
    return run(script, model, tmp_path / "out.gguf", CHILD_TEMPLATE)


def test_calls_on_one_session_take_turns(model: Path, tmp_path: Path) -> None:
    """No operation of a session and its sampler waits with the GIL for one that wants it."""
    assert crowd(
        model,
        tmp_path,
        "session.truncate(0), session.forward([5] * 2000, logits='none')",
        "session.truncate(0)",
        "session.next([5] * 10, sampler)",
        "sampler.sample(session)",
        "sampler.accept(3), sampler.seed",
        "sampler.probabilities(np.zeros(300, np.float32)), sampler.sample_logits(np.zeros(300, np.float32))",
        "session.n_past, session.n_ctx, session.memory_bytes",
        "session.cancel(), time.sleep(0.01)",
        "_core.Session(rt.model, 64).next([1], sampler)",
        "rt.model.time_operations(True), rt.model.operation_times()",
        "session.forward([5] * 30, 'none', moments)",
        "[(i.n_tokens, i.sample(), i.power, i.peak, i.tensors) for i in moments.inputs]",
        "moments.select([0], [0]), moments.inputs[0].moments()",
    ) == (0, "[]\n")


def test_cancelling_while_others_begin(model: Path, tmp_path: Path) -> None:
    generate = "rt.generate('a', max_tokens=1, temperature=0.0)"
    assert crowd(model, tmp_path, *[generate] * 6, "rt.cancel()", "rt.cancel()") == (0, "[]\n")


def test_a_position_can_be_read_while_a_call_is_under_way(model: Path) -> None:
    with Runtime(model, n_threads=1, n_ctx=4096) as runtime:
        session = _core.Session(runtime.model, 4096)
        session.forward([1, 2, 3])
        thread = threading.Thread(target=lambda: session.forward([5] * 4000, logits="none"))
        thread.start()
        seen = {session.n_past for _ in range(1000)}
        thread.join()
        assert seen <= {3, 4003} and session.n_past == 4003
        with pytest.raises(hrun.ContextOverflowError):
            session.forward([1] * 200)
        assert session.n_past == 4003
        session.truncate(5)
        assert session.n_past == 5


def test_what_a_collector_found_stays_valid(model: Path) -> None:
    """Objects made of its inputs live on while it sums, and after it is gone."""
    loaded = _core.Model.load(str(model))
    session, collector = _core.Session(loaded, 64), _core.MomentCollector(loaded)
    assert collector.inputs == []
    session.forward([1], "none", collector)
    early = collector.inputs
    session.forward([2], "last", collector)  # the head's input is new
    assert len(collector.inputs) == len(early) + 1
    collector.select([0], [0])
    session.forward([3, 4], "last", collector)
    first = early[0]
    names = first.tensors
    del collector, early, session, loaded
    assert first.n_tokens == 2 and first.tensors == names and first.moments().shape[0] == 1
