"""The parts that all commands share: one-line errors, exit codes, quiet ends."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

import hrun
from hrun._core import kv_format, samplers
from hrun.cli.options import MODEL_FLAGS, add_flags

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations of flags, and with errors of one line."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            flags = [f for f in self._option_string_actions if f != unknown[1]]
            if near := difflib.get_close_matches(unknown[1].split("=")[0], flags, 1, 0.7):
                message += f"; did you mean {near[0]}?"
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


class Terminated(BaseException):
    """SIGTERM or SIGHUP, unwound like Ctrl-C so that partial files are removed."""

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that a shell shows."""
        return 128 + self.number


@contextlib.contextmanager
def unwinding_on_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated, once: a second one does not disturb the cleaning up.  What the caller ignores
    (nohup) stays ignored."""
    before: dict[int, Any] = {}
    received: list[Terminated] = []

    def stop(number: int, frame: object) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        received.append(Terminated(number))
        raise received[0]

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                before[number] = handler
                signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        if received and error is not received[0]:  # a library made another error of it
            raise received[0] from error
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def run(
    program: str,
    job: Callable[[argparse.Namespace], int],
    parser: Parser,
    argv: Sequence[str] | None,
) -> int:
    """Parses and does the job.  Whatever goes wrong ends as one line on stderr and an exit code."""
    hold_closed_streams()
    try:
        with unwinding_on_termination():
            return job(parser.parse_args(argv))
    except Terminated as end:
        return end.exit_code
    except SystemExit as end:  # --help, --version and usage errors, so that main() always returns
        return end.code if isinstance(end.code, int) else EXIT_ERROR if end.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left: nobody to tell
        silence(sys.stdout)
        return EXIT_PIPE
    except hrun.ContextOverflowError as error:
        return complain(program, f"{error} (-c N)")
    except hrun.Error as error:
        return complain(program, str(error))
    except OSError as error:
        return complain(program, f"{error.filename or 'cannot write'}: {error.strerror or error}")
    except MemoryError:
        return complain(program, "out of memory")
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            silence(sys.stdout)


def hold_closed_streams() -> None:
    """Holds the numbers of standard streams that were closed at the start.

    Text written to such a stream is lost, and no other file takes its number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        held = os.open(os.devnull, os.O_RDWR)
        if held > 2:  # the number is taken
            os.close(held)
        if number:  # no stdin is not the same as an empty one
            setattr(sys, name, open(os.devnull, "w"))


def complain(program: str, message: str) -> int:
    """One line on stderr; the exit code of an error."""
    line = " ".join(message.split())
    try:
        print(f"{program}: {line}", file=sys.stderr)
    except (OSError, ValueError):  # stderr is closed
        pass
    return EXIT_ERROR


def silence(stream: object) -> None:
    """Lets a stream whose reader has gone be closed at exit without another error."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[attr-defined]
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that runs a model; :func:`load` reads them."""
    add_flags(parser, *MODEL_FLAGS)


# The parameters for which llama.cpp has another name.
_SAMPLING_FLAGS = {"temperature": ["--temp", "--temperature"]}


def add_sampling_options(parser: argparse.ArgumentParser, what: str) -> Any:
    """The flags of every command that draws tokens, as a group; :func:`chosen_sampling` reads them."""
    group = parser.add_argument_group("sampling", what)
    for row in samplers():
        group.add_argument(
            *_SAMPLING_FLAGS.get(row.name, ["--" + row.name.replace("_", "-")]),
            dest=row.name,
            type=int if row.type == "int" else float,
            metavar="N",
            help=f"{row.help} (default {row.default:g})",
        )
    add_flags(group, "seed")
    return group


def chosen_sampling(flags: argparse.Namespace) -> dict[str, float]:
    """The parameters that the flags of :func:`add_sampling_options` give."""
    given = {row.name: getattr(flags, row.name) for row in samplers()}
    return {name: value for name, value in given.items() if value is not None}


class LoadProgress:
    """One line on a terminal, from the second after which a load counts as slow; removed at the end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._start = clock()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Tensors loaded, and of how many."""
        if self._clock() - self._start < 1.0 or not self._stream.isatty():
            return
        self._shown = True
        self._stream.write(f"\rloading: {100 * done // max(total, 1)} %")
        self._stream.flush()

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def runtime_settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Parameters of the Runtime that :func:`add_model_options` has flags for, besides the file and the threads."""
    return {
        "n_batch": flags.batch_size,
        "type_k": flags.cache_type_k,
        "type_v": flags.cache_type_v,
        "device": flags.device,
        "n_gpu_layers": flags.gpu_layers,
        "rotation": flags.rotation,
        "pre_tokenizer": flags.pre_tokenizer,
    }


def load(
    flags: argparse.Namespace, n_ctx: int | None, verbose: bool = False, **more: Any
) -> hrun.Runtime:
    """The Runtime that the flags of :func:`add_model_options` ask for; a slow load shows its progress.

    ``more``: other parameters of the Runtime.
    """
    for flag, wish in (("-ctk", flags.cache_type_k), ("-ctv", flags.cache_type_v)):
        kept = kv_format(wish)
        if kept != wish:
            print(
                f"hrun: {flag} {wish}: {kept} is kept, smaller and closer to f16", file=sys.stderr
            )
    progress = LoadProgress(sys.stderr)
    try:
        runtime = hrun.Runtime(
            flags.model,
            n_ctx=n_ctx,
            n_threads=max(flags.threads, 0),
            verbose=verbose,
            progress=progress,
            **runtime_settings(flags),
            **more,
        )
    finally:
        progress.close()
    if runtime.model.device_warning:
        print(f"hrun: {runtime.model.device_warning}", file=sys.stderr)
    return runtime
