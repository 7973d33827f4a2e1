"""Models by name from Hugging Face, through the huggingface_hub package where it is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import hrun

_PREFERRED = ("rtq3", "q4_k_m", "q4_k", "q4_0", "q8_0")  # without a wish, the first of these that the repository has


def download(spec: str) -> Path:
    """USER/MODEL or USER/MODEL:QUANT to a local file in Hugging Face's cache.  Raises hrun.Error."""
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", spec)
    if not found:
        raise hrun.ArgumentError(f"-hf '{spec}' is not of the form USER/MODEL or USER/MODEL:QUANT")
    try:
        import huggingface_hub
    except ImportError:
        raise hrun.Error(
            "-hf needs the package huggingface_hub: pip install 'hrun[hub]', or download the file and use -m"
        ) from None
    repository, wish = found.groups()
    try:
        name = choose(huggingface_hub.list_repo_files(repository), wish)
        if name is None:
            raise hrun.Error(f"{repository} has no GGUF file{f' of type {wish}' if wish else ''}")
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except hrun.Error:
        raise
    except Exception as error:  # the library raises whatever its HTTP client does
        raise hrun.Error(f"cannot download {spec}: {error}") from error


def choose(names: Sequence[str], wish: str | None) -> str | None:
    """The GGUF file that is meant: of the wished type, else of a preferred one, else the first."""
    models = [
        n for n in sorted(names) if n.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix|-of-\d+", n.lower())
    ]

    def of_type(kind: str) -> str | None:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(kind.lower())}(?:[-._]|\.gguf$)")
        return next((n for n in models if pattern.search(n.lower())), None)

    if wish:
        return of_type(wish)
    return next((n for kind in _PREFERRED if (n := of_type(kind))), models[0] if models else None)
