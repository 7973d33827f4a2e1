"""hrun-serve: the HTTP server.  Needs the extra ``hrun[serve]``; :func:`main` is the command."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``hrun-serve``; the exit code."""
    from hrun.serve.cli import main as run

    return run(argv)
