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
        parts = [huggingface_hub.hf_hub_download(repository, part) for part in parts_of(name)]
        return Path(parts[0])
    except hrun.Error:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise hrun.Error(f"cannot download {spec}: no connection to Hugging Face ({error}); a model that was downloaded before is "
                         "found in its cache, any other file is opened with -m") from error
    except Exception as error:  # the library raises whatever its HTTP client does
        raise hrun.Error(f"cannot download {spec}: {error}") from error


def parts_of(name: str) -> list[str]:
    """The file, or all files of a model in several of which it is the first."""
    found = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", name)
    if not found:
        return [name]
    return [f"{found[1]}-{part:05d}-of-{found[2]}.gguf" for part in range(1, int(found[2]) + 1)]


def choose(names: Sequence[str], wish: str | None) -> str | None:
    """The GGUF file that is meant: of the wished type, else of a preferred one, else the first."""
    models = [
        n for n in sorted(names)
        if n.lower().endswith(".gguf") and not re.search(r"mmproj|imatrix|-(?!00001)\d{5}-of-\d{5}", n.lower())
    ]

    def of_type(kind: str) -> str | None:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(kind.lower())}(?:[-._]|\.gguf$)")
        return next((n for n in models if pattern.search(n.lower())), None)

    if wish:
        return of_type(wish)
    return next((n for kind in _PREFERRED if (n := of_type(kind))), models[0] if models else None)
