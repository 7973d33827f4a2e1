"""Faults inside libraries written in Rust, as errors of hrun.

They raise plain Exception, or a panic, which is none: it passes every ``except Exception`` and would end the program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hrun.errors import Error, ModelFileError, printable


@contextlib.contextmanager
def library_errors(where: str, kind: type[Error] = ModelFileError) -> Iterator[None]:
    """Turns errors that the library raises inside into ``kind("WHERE: ...")``; Ctrl-C, memory and
    hrun's own errors pass.
    """
    try:
        yield
    except (Error, MemoryError):
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise kind(f"{where}: {printable(str(error), 300)}") from error


def is_panic(error: BaseException) -> bool:
    """A panic of a Rust library; the type has no name that could be imported."""
    return type(error).__name__ == "PanicException"
