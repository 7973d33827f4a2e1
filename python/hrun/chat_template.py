"""A model's own chat template, rendered without trusting it.

Templates come with model files from strangers, and Jinja's sandbox bounds neither time nor memory.  So there are two
ways.  A template of a small shape, whose cost is proportional to its size times the conversation's (`_is_plain`), is
rendered here.  Every other one is rendered in a child process with limits on memory, which is killed when its time is
up.  The child starts while the model loads and is kept for the next answer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import sysconfig
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrun import template_worker
from hrun._core import end_calls, require_running
from hrun.errors import ArgumentError, ChatTemplateError, printable
from hrun.fork_lock import ForkLock

SECONDS = 0.9  # for one rendering
START_SECONDS = 20.0  # for the child to load jinja2, on a machine that may be busy
SOURCE_CHARACTERS = 256 << 10
# Templates and requests within these bounds may be rendered in this process: see _is_plain.
PLAIN_SOURCE_CHARACTERS = 2 << 10
PLAIN_REQUEST_CHARACTERS = 64 << 10
PLAIN_COST = 3e7  # operations times messages times characters; about 7 ns each
_REPLY_BYTES = (
    6 * template_worker.OUTPUT_CHARACTERS + 4096
)  # JSON takes at most six bytes per character

Message = Mapping[str, Any]


class ChatTemplate:
    """One template.  ``render`` may be called from several threads; ``close`` ends the child process, if there is one."""

    def __init__(self, source: str) -> None:
        if len(source) > SOURCE_CHARACTERS:
            raise ChatTemplateError(
                f"{len(source)} characters long, at most {SOURCE_CHARACTERS} are allowed"
            )
        self.source = source
        self._plain: Any = None
        self._operations = 0
        self._lock = ForkLock()
        self._worker: Worker | None = None
        if len(source) <= PLAIN_SOURCE_CHARACTERS and "\0" not in source:
            try:
                environment = template_worker.make_environment()
                tree = environment.parse(source)
                if _is_plain(tree):
                    self._operations = _count_operations(tree)
                    self._plain = template_worker.compile_template(environment, source)
            except Exception:  # the child process will meet the same error and describe it
                self._plain = None
        if self._plain is None:
            self._worker = Worker()

    @property
    def in_process(self) -> bool:
        """Is the template simple enough to be rendered without a child process?"""
        return self._plain is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
        **variables: Any,
    ) -> str:
        """The conversation as the model was trained to see it.

        Raises ChatTemplateError with the template's line when the template is malformed, refuses the messages or
        passes its limits; ArgumentError for messages that are no JSON.
        """
        given = {
            "messages": [_with_reasoning(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "tools": None,
            "documents": None,
            **variables,
        }
        try:  # also a copy: nothing that the template does reaches the caller's objects
            request = json.dumps({"source": self.source, "variables": given})
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"messages must be plain JSON values, without cycles: {printable(str(error))}"
            ) from error
        cost = self._operations * max(1, len(messages)) * len(request)
        if self._plain is None or len(request) > PLAIN_REQUEST_CHARACTERS or cost > PLAIN_COST:
            with self._lock:
                self._worker = self._worker or Worker()
            answer = self._worker.ask(request)
            if "error" in answer:
                raise ChatTemplateError(printable(answer["error"], 600), answer.get("line"))
            text: str = answer["text"]
            return text
        try:
            variables = json.loads(request)["variables"]
            # A plain template goes through nothing but the messages.
            variables["messages"] = template_worker.flattened(variables["messages"])
            return template_worker.render(self._plain, variables)
        except Exception as error:
            message, line = template_worker.describe(error)
            raise ChatTemplateError(printable(message, 600), line) from None

    def close(self) -> None:
        if self._worker is not None:
            self._worker.stop()


_REASONING = ("reasoning_content", "thinking", "reasoning")


def _with_reasoning(message: Message) -> Message:
    """Returns the message with the assistant's thoughts under both names that templates read.

    As transformers does: `reasoning_content` is the first that is there, `thinking` as well unless the message has its own.
    """
    if not isinstance(message, Mapping):
        return message
    thought = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return (
        message
        if thought is None
        else {"thinking": thought, **message, "reasoning_content": thought}
    )


class Worker:
    """The child process: started at once, killed when it is late, started again when it is next asked."""

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._running: list[_Child] = []  # one, or none
        self._ready = False
        self._buffer = bytearray()
        weakref.finalize(self, _kill, self._running).atexit = False  # then _end_all() does it
        _workers.add(self)
        self._start()

    def ask(self, request: str) -> dict[str, Any]:
        """One rendering; ChatTemplateError if it is not done in time or the process dies of it."""
        with self._lock:
            if self._running and self._running[0].parent != os.getpid():
                _kill(self._running)  # after fork(): it is our parent's, which may be using it
            try:
                require_running()
                return self._answer(request)
            except (
                BaseException
            ):  # a late reply must not be taken for the next one's, Ctrl-C included
                _kill(self._running)
                require_running()
                raise

    def _answer(self, request: str) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._start()
        if not self._ready:
            if self._exchange(None, START_SECONDS) is None:
                raise ChatTemplateError(
                    f"cannot be rendered: the child process {_interpreter()} did not start"
                )
            self._ready = True
        answer = self._exchange(request.encode() + b"\n", SECONDS)
        if answer is None:
            late = self._process is not None and self._process.poll() is None
            raise ChatTemplateError(
                f"not finished after {SECONDS:g} seconds" if late else "needs too much memory"
            )
        return answer

    def stop(self) -> None:
        """End the process; the next ``ask`` would start a new one."""
        with self._lock:
            _kill(self._running)

    def _start(self) -> None:
        _kill(self._running)
        self._ready = False
        self._buffer.clear()
        script = Path(template_worker.__file__)
        try:
            process = subprocess.Popen(
                [_interpreter(), "-I", "-S", "-B", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us
                env={
                    k: v
                    for k, v in os.environ.items()
                    if k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")
                },
            )
            self._running.append(_Child(process, os.getpid()))
            self._send(
                json.dumps(
                    {"path": [p for p in sys.path if p and p != str(script.parent)]}
                ).encode()
                + b"\n",
                None,
            )
        except OSError as error:
            _kill(self._running)
            raise ChatTemplateError(f"cannot be rendered: no child process: {error}") from error

    def _exchange(self, request: bytes | None, seconds: float) -> dict[str, Any] | None:
        """Sends and awaits one line; None if the time is up, the process has ended, or the reply makes no sense."""
        deadline = time.monotonic() + seconds
        assert self._process is not None and self._process.stdout is not None
        if request is not None and not self._send(request, deadline):
            return None
        output = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not _wait(output, select.POLLIN, left):
                return None
            chunk = os.read(output, 1 << 16)
            if not chunk or len(self._buffer) + len(chunk) > _REPLY_BYTES:
                return None
            self._buffer += chunk
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def _send(self, data: bytes, deadline: float | None) -> bool:
        """Writes without ever waiting past the deadline, for a child that has stopped reading."""
        assert self._process is not None and self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, deadline is None)
        view = memoryview(data)
        while view:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not _wait(pipe, select.POLLOUT, left):
                    return False
            try:
                view = view[os.write(pipe, view) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    @property
    def _process(self) -> subprocess.Popen[bytes] | None:
        return self._running[0].process if self._running else None


def _interpreter() -> str:
    """A Python to run.  In a program that embeds Python sys.executable is absent, or that program."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folder = sysconfig.get_config_var("BINDIR") or os.path.join(sys.base_exec_prefix, "bin")
    for path in (
        sys.executable,
        os.path.join(sys.exec_prefix, "bin", "python3"),
        os.path.join(folder, version),
        os.path.join(sys.base_exec_prefix, "bin", version),
    ):
        if path and os.path.basename(path).startswith(("python", "pypy")):
            if os.access(path, os.X_OK):
                return path
    raise ChatTemplateError(
        f"cannot be rendered: no Python interpreter for a child process: "
        f"sys.executable is {sys.executable!r}, and {folder} has no {version}"
    )


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    parent: int  # the process that started it


def _kill(running: list[_Child]) -> None:
    """Ends the process in the list, if there is one and it is ours, and empties the list."""
    while running:
        process, parent = (child := running.pop()).process, child.parent
        if parent == os.getpid():
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if parent == os.getpid():
            process.wait()


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A thread that waits for an answer reads the end of the pipe, and ends without a word."""
    end_calls()
    for worker in list(_workers):
        for child in list(worker._running):
            if child.parent == os.getpid():
                child.process.kill()
                child.process.wait()


def _wait(descriptor: int, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(seconds * 1000))


_PLAIN_FILTERS = frozenset(
    {"trim", "length", "upper", "lower", "capitalize", "safe", "string", "default", "first", "last"}
)
_PLAIN_CALLS = frozenset({"raise_exception", "strftime_now"})


def _count_operations(tree: Any) -> int:
    """Counts the operations that may look at every character of all messages, each at most once per
    message.
    """
    from jinja2 import nodes

    kinds = (
        nodes.Filter,
        nodes.Test,
        nodes.Compare,
        nodes.Call,
        nodes.Add,
        nodes.Concat,
        nodes.Getitem,
        nodes.Output,
    )
    return sum(1 for _ in tree.find_all(kinds))


def _is_plain(tree: Any) -> bool:
    """Is the cost of this template at most its size, times the number of messages, times the size of the messages?

    One level of loops, over `messages` alone; no macros, no methods, no arithmetic other than joining what is shown at
    once; and nothing that `set` stores is larger than what it was made of.  PLAIN_COST bounds that product.
    """
    from jinja2 import nodes

    simple = (nodes.Name, nodes.Const, nodes.TemplateData, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Compare,
              nodes.Operand, nodes.CondExpr, nodes.Slice, nodes.Neg)  # fmt: skip

    def is_name(node: Any, name: str) -> bool:
        return isinstance(node, nodes.Name) and node.name == name

    def expression(node: Any, stored: bool = False) -> bool:
        if isinstance(node, nodes.Getattr):
            allowed = not node.attr.startswith("_")
        elif isinstance(node, nodes.Getitem):
            key = node.arg
            allowed = isinstance(key, (nodes.Const, nodes.Slice, nodes.Neg)) and not (
                isinstance(key, nodes.Const) and str(key.value).startswith("_")
            )
        elif isinstance(node, nodes.Filter):
            allowed = node.node is not None and not node.kwargs and node.dyn_args is None
            # Escaping what is escaped already doubles it, so tojson is not applied to its own result.
            json_of_data = node.name == "tojson" and not stored and not node.args
            json_of_data = json_of_data and isinstance(
                node.node, (nodes.Name, nodes.Getattr, nodes.Getitem)
            )
            allowed = allowed and (node.name in _PLAIN_FILTERS or json_of_data)
        elif isinstance(node, nodes.Call):
            allowed = (
                isinstance(node.node, nodes.Name) and node.node.name in _PLAIN_CALLS and not stored
            )
        elif isinstance(node, (nodes.Add, nodes.Concat)):
            allowed = not stored
        elif isinstance(node, (nodes.List, nodes.Tuple)):
            allowed = all(isinstance(item, nodes.Const) for item in node.items)
        elif isinstance(
            node, nodes.Mod
        ):  # loop.index0 % 2; with a string on the left it would be formatting
            on_loop = isinstance(node.left, nodes.Getattr) and is_name(node.left.node, "loop")
            allowed = on_loop and isinstance(node.right, nodes.Const)
        else:
            allowed = isinstance(node, simple)
        return allowed and all(expression(child, stored) for child in node.iter_child_nodes())

    def assignable(target: Any) -> bool:
        return isinstance(target, nodes.Name) and target.name not in ("messages", "loop")

    def statement(node: Any, in_loop: bool) -> bool:
        if isinstance(node, nodes.Output):
            return all(expression(child) for child in node.nodes)
        if isinstance(node, nodes.If):
            branches = [*node.body, *node.elif_, *node.else_]
            return expression(node.test) and all(statement(child, in_loop) for child in branches)
        if isinstance(node, nodes.For):
            over = node.iter
            if isinstance(over, nodes.Getitem) and isinstance(over.arg, nodes.Slice):
                over = over.node
            return (
                not in_loop
                and not node.recursive
                and assignable(node.target)
                and is_name(over, "messages")
                and expression(node.iter)
                and (node.test is None or expression(node.test))
                and all(statement(child, True) for child in [*node.body, *node.else_])
            )
        if isinstance(node, nodes.Assign):
            return assignable(node.target) and expression(node.node, stored=True)
        return False

    return all(statement(node, False) for node in tree.body)
