"""Models by name from Hugging Face, through the huggingface_hub package where it is installed."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import hrun

_CONNECT_SECONDS = 5.0
_PREFERRED = (
    "rtq3",
    "q4_k_m",
    "q4_k",
    "q4_0",
    "q8_0",
)  # without a wish, the first of these that the repository has


def download(spec: str) -> Path:
    """USER/MODEL or USER/MODEL:QUANT to a local file in Hugging Face's cache.  Raises hrun.Error."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", spec)
    if not found:
        raise hrun.ArgumentError(f"-hf '{spec}' is not of the form USER/MODEL or USER/MODEL:QUANT")
    huggingface_hub = library()
    repository, wish = found.groups()
    try:
        reach(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        names, local = huggingface_hub.list_repo_files(repository), False
    except Exception as error:  # the library raises whatever its HTTP client does
        if not is_offline(error):
            raise hrun.Error(f"cannot download {spec}: {error}") from error
        names, local = _downloaded(huggingface_hub, repository), True
        if not names:
            raise hrun.Error(
                f"cannot download {spec}: no connection to Hugging Face ({error}), and nothing of {repository} has been "
                "downloaded before; any other file is opened with -m"
            ) from error
    name = choose(names, wish)
    if name is None:
        where = (
            " among what has been downloaded of it, and there is no connection to Hugging Face"
            if local
            else ""
        )
        raise hrun.Error(
            f"{repository} has no GGUF file{f' of type {wish}' if wish else ''}{where}"
        )
    print(f"hrun: {repository}: {name}", file=sys.stderr)
    try:
        parts = [
            huggingface_hub.hf_hub_download(repository, part, local_files_only=local)
            for part in parts_of(name)
        ]
    except Exception as error:
        if local or is_offline(error):
            raise hrun.Error(
                f"cannot download {spec}: no connection to Hugging Face, and '{name}' is not complete in its cache"
            ) from error
        raise hrun.Error(f"cannot download {spec}: {error}") from error
    return Path(parts[0])


def library(flag: str = "-hf") -> Any:
    """The package huggingface_hub.  Raises hrun.Error, which names the flag, where it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        other = ", or download the file and use -m" if flag == "-hf" else ""
        raise hrun.Error(
            f"{flag} needs the package huggingface_hub: pip install 'hrun[hub]'{other}"
        ) from None
    return huggingface_hub


def is_offline(error: Exception) -> bool:
    """Is the error the lack of any answer, as opposed to an answer that says no?

    The library's HTTP client changes from version to version.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    no_answer = (
        names & {"TransportError", "RequestException"} and getattr(error, "response", None) is None
    )
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(no_answer)


def reach(endpoint: str) -> None:
    """Raises ConnectionError at once where nobody answers: the library would try for half a minute."""
    address = urlsplit(endpoint)
    if getproxies() or not address.hostname:
        return
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(str(error)) from error


def _downloaded(huggingface_hub: Any, repository: str) -> list[str]:
    """Names of the repository's files that lie in the cache."""
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except Exception:  # the library has a type of its own for "nothing there"
        return []
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def parts_of(name: str) -> list[str]:
    """The file, or all files of a model in several of which it is the first."""
    found = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", name)
    if not found:
        return [name]
    return [f"{found[1]}-{part:05d}-of-{found[2]}.gguf" for part in range(1, int(found[2]) + 1)]


def choose(names: Sequence[str], wish: str | None) -> str | None:
    """The GGUF file that is meant: of the wished type, else of a preferred one, else the first."""
    models = [
        n
        for n in sorted(names)
        if n.lower().endswith(".gguf")
        and not re.search(r"mmproj|imatrix|-(?!00001)\d{5}-of-\d{5}", n.lower())
    ]

    def of_type(kind: str) -> str | None:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(kind.lower())}(?:[-._]|\.gguf$)")
        return next((n for n in models if pattern.search(n.lower())), None)

    if wish:
        return of_type(wish)
    return next((n for kind in _PREFERRED if (n := of_type(kind))), models[0] if models else None)
