"""Models by the words that people type: a file, a name on Hugging Face, a short name; and what of them is on this machine."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hrun
from hrun.cli import hub

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_TYPE = re.compile(
    r"[-._]((?:ud-)?(?:i?q|rtq|itq|tq|mxfp|bf|f)\d\w*)(?:-\d{5}-of-\d{5})?\.gguf$", re.I
)

# Short names of models that hrun runs; "demo" comes with hrun.
SHORT_NAMES = {
    "smollm2": "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF",
    "qwen3": "Qwen/Qwen3-4B-GGUF",
    "qwen3:8b": "Qwen/Qwen3-8B-GGUF",
    "gemma3": "ggml-org/gemma-3-4b-it-GGUF",
    "gemma3:1b": "ggml-org/gemma-3-1b-it-GGUF",
    "llama3.2": "bartowski/Llama-3.2-3B-Instruct-GGUF",
    "llama3.2:1b": "bartowski/Llama-3.2-1B-Instruct-GGUF",
    "gpt-oss": "ggml-org/gpt-oss-20b-GGUF",
}


@dataclass
class Kept:
    """A model in the cache of Hugging Face: one file, or several parts."""

    repository: str
    kind: str  # its type as the name has it, "" where the name has none
    files: list[Any] = field(default_factory=list)  # huggingface_hub.CachedFileInfo

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.kind}" if self.kind else self.repository

    @property
    def path(self) -> Path:
        return Path(min(str(f.file_path) for f in self.files))

    @property
    def size(self) -> int:
        return sum(f.size_on_disk for f in self.files)

    @property
    def used(self) -> float:
        return float(max(f.blob_last_accessed for f in self.files))


def kept_models() -> list[Kept]:
    """The GGUF models of the cache, by name.  Raises hrun.Error without huggingface_hub."""
    huggingface_hub = hub.library()
    try:
        cache = huggingface_hub.scan_cache_dir()
    except (huggingface_hub.CacheNotFound, ValueError):
        return []
    found: dict[tuple[str, str], Kept] = {}
    for repository in cache.repos:
        for revision in repository.revisions:
            for file in revision.files:
                name = str(file.file_path.relative_to(revision.snapshot_path))
                if not name.lower().endswith(".gguf"):
                    continue
                kind = match[1].lower() if (match := _TYPE.search(name)) else ""
                stem = re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", name)
                kept = found.setdefault((repository.repo_id, stem), Kept(repository.repo_id, kind))
                if all(f.blob_path != file.blob_path for f in kept.files):
                    kept.files.append(file)
    return sorted(found.values(), key=lambda kept: kept.name)


def find_kept(word: str) -> Kept:
    """The one that is meant: USER/MODEL[:TYPE], MODEL[:TYPE] or a short name.  Raises hrun.Error."""
    wanted = SHORT_NAMES.get(word, word).lower()
    models = kept_models()
    fits = [m for m in models if wanted in set(_names(m))]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise hrun.ArgumentError(f"'{word}' is any of {', '.join(m.name for m in fits)}")
    raise hrun.ArgumentError(
        f"'{word}' is not on this machine"
        + near(word, [m.name for m in models])
        + "; hrun list shows what is"
    )


def _names(model: Kept) -> Iterator[str]:
    short = model.repository.split("/")[-1]
    for name in (model.repository, short):
        yield name.lower()
        if model.kind:
            yield f"{name}:{model.kind}".lower()


def near(word: str, known: list[str]) -> str:
    """Returns '; did you mean X?' where a known name is like the given one."""
    found = difflib.get_close_matches(word.lower(), [k.lower() for k in known], 1)
    spelled = next((k for k in known if found and k.lower() == found[0]), None)
    return f"; did you mean {spelled}?" if spelled else ""


def looks_like_a_model(word: str) -> bool:
    """Does the word look like a model rather than a misspelled command?"""
    return (
        Path(word).expanduser().exists()
        or "/" in word
        or word.lower().endswith(".gguf")
        or word.lower() in SHORT_NAMES
        or word == "demo"
    )


def resolve(word: str, download: bool = True) -> Path:
    """The file that a word stands for.  Raises ArgumentError with what may have been meant."""
    path = Path(word).expanduser()
    if path.exists():
        return path
    if word == "demo":
        return hrun.demo_model_path()
    is_path = path.suffix.lower() == ".gguf" or word.startswith((".", "/", "~"))
    if is_path:
        folder = path.parent
        there = sorted(str(p) for p in folder.glob("*.gguf")) if folder.is_dir() else []
        raise hrun.ArgumentError(f"{word}: no such file{near(word, there)}")
    if not download:
        return find_kept(word).path
    name = SHORT_NAMES.get(word.lower(), word)
    if HUB_NAME.fullmatch(name):
        return hub.download(name)
    try:
        return find_kept(word).path
    except hrun.Error:
        known = [*SHORT_NAMES, "demo", *(str(p) for p in Path().glob("*.gguf"))]
        raise hrun.ArgumentError(
            f"'{word}' is no file, no short name ({', '.join(['demo', *SHORT_NAMES])}) and no USER/MODEL of "
            f"Hugging Face{near(word, known)}"
        ) from None


def remove(model: Kept) -> int:
    """Deletes it from the cache; the bytes that became free."""
    freed = 0
    blobs = {Path(f.blob_path) for f in model.files}
    targets = {b.resolve() for b in blobs}
    root = Path(model.files[0].file_path)
    while root.name != "snapshots":
        root = root.parent
    for path in root.rglob("*"):
        if path.is_file() and path.resolve() in targets:
            path.unlink()
    for blob in blobs:
        if blob.exists():  # else the cache holds files in place of links
            blob.unlink()
        freed += next(f.size_on_disk for f in model.files if Path(f.blob_path) == blob)
    return freed


def shown_size(n_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def shown_age(seconds: float) -> str:
    """Returns when the file was last used: 3 hours, 2 days ago."""
    age = max(time.time() - seconds, 0)
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if age >= size:
            n = int(age / size)
            return f"{n} {unit}{'s' if n > 1 else ''} ago"
    return "just now"
