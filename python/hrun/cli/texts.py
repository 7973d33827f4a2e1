"""Texts that flags give: in words, in files, from a pipe."""

from __future__ import annotations

import argparse
import codecs
import errno
import os
import sys
from pathlib import Path


def system_message(options: argparse.Namespace) -> str | None:
    """The system message that the flags give, if any."""
    if options.system_prompt_file:
        return read_text(options.system_prompt_file)
    text = options.system_prompt
    return unescaped(text) if text and options.escape else text


def read_text(path: str) -> str:
    """The text of a file, of stdin for "-"."""
    if path == "-" and sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdin")
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    return text_of(data, "stdin" if path == "-" else path)


def text_of(data: bytes, name: str) -> str:
    """A prompt as its file shows it: without a mark of its encoding, carriage returns of Windows and the last line's end."""
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _ENCODINGS if data.startswith(mark)), (b"", "utf-8")
    )
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = data.decode(encoding, "replace")
        at = error.start + len(mark)
        print(
            f"hrun: {name}: byte {at} is no {encoding.upper()}; it is read as U+FFFD",
            file=sys.stderr,
        )
    if text.count("\r\n") == text.count("\n"):  # all lines, so it is how lines end
        text = text.replace("\r\n", "\n")
    return text.removesuffix("\n")


_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def unescaped(text: str) -> str:
    r"""Text in which \n, \t and the like are what they stand for."""
    simple = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
    out, at = [], 0
    while at < len(text):
        following = text[at + 1 : at + 2]
        if text[at] == "\\" and following in simple and following:
            out.append(simple[following])
            at += 2
        else:
            out.append(text[at])
            at += 1
    return "".join(out)
