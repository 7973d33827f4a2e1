"""Conversations in files: those that people save, and the last one, which is kept for ``hrun --resume``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hrun
from hrun.cli.reader import state_folder
from hrun.errors import printable
from hrun.outputs import write_text

_FORMAT = "hrun-chat"
Messages = list[dict[str, str]]


def write_chat(path: Path, model: Path, system: str | None, messages: Messages) -> None:
    saved = {"format": _FORMAT, "model": str(model), "system": system, "messages": messages}
    write_text(path, json.dumps(saved, indent=1, ensure_ascii=False) + "\n")


def is_saved_chat(path: Path) -> bool:
    try:
        read_chat(path)
        return True
    except (hrun.Error, OSError):
        return False


def read_chat(path: Path) -> tuple[str | None, Messages]:
    """System message and messages of a saved chat.  Raises ArgumentError if the file is none."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise hrun.ArgumentError(f"{path} is no saved chat: {printable(str(error))}") from error
    if (
        not isinstance(saved, dict)
        or saved.get("format") != _FORMAT
        or not isinstance(saved.get("messages"), list)
    ):
        raise hrun.ArgumentError(f"{path} is no saved chat")
    messages = []
    for i, message in enumerate(saved["messages"]):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise hrun.ArgumentError(f"{path}: message {i} must have a role and a content")
        messages.append({"role": message["role"], "content": message["content"]})
    system = saved.get("system")
    return (system if isinstance(system, str) else None), messages


def keep_last(model: Path, system: str | None, messages: Messages) -> None:
    """Keeps the chat for ``--resume``, in a file that only the user can read; keeps nothing where
    there is no place for it.
    """
    folder = state_folder()
    if folder is None or not messages:
        return
    path = folder / "last-chat.json"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        write_chat(path, model, system, messages)
    except OSError:
        pass


def last_chat() -> tuple[str | None, Messages]:
    """Returns the chat that :func:`keep_last` kept.  Raises ArgumentError where it kept nothing."""
    folder = state_folder()
    path = folder / "last-chat.json" if folder else None
    if path is None or not path.is_file():
        raise hrun.ArgumentError("--resume: there is no chat to go on with")
    return read_chat(path)
