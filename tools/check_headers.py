#!/usr/bin/env python3
"""Every header compiles alone: ``tools/check_headers.py BUILD...`` (configured build folders).

A header that comes first in a source of the build, or first in another header, needs no check of
its own: whoever compiles that file has compiled the header alone.  The others are compiled here,
each with the command of a source of its own room, taken from ``compile_commands.json``.  Kernel
headers take the command of the tier that they are for.  Headers that begin with the same include
find it precompiled, which changes nothing: each would read that file first.  Prints what fails and
ends with 1.

The kernels for a CPU tier that some of the builds have and the last one has not are read by the
compiler as well, so that an error in them is found where nobody compiles them to code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Headers for one instruction set, by a word in their names; the other kernel headers compile in
# any tier.
TIERS = {"avx512": "avx512", "avx2": "avx2", "half": "avx2", "neon": "neon", "scalar": "scalar"}
KERNEL_ROOMS = ("cpp/cpu/lanes", "cpp/cpu/kernels", "cpp/cpu/panels")


class Command(NamedTuple):
    """The compiler's command for a source, without input and output; ``output`` names the target.
    Where something is precompiled (HRUN_PCH), no header is proven by coming first in the source.
    """

    source: Path
    words: list[str]
    output: str
    precompiled: bool


def include_folders(words: list[str]) -> list[Path]:
    """Returns the folders in which the command looks for headers."""
    joined = [Path(w[2:]) for w in words if w.startswith("-I") and len(w) > 2]
    return joined + [Path(b) for a, b in pairwise(words) if a in ("-I", "-isystem")]


def commands(builds: list[Path]) -> list[Command]:
    """Returns the command for every source of the builds that the C++ compiler compiles."""
    found = []
    entries = [
        entry
        for build in builds
        for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    ]
    for entry in entries:
        words = shlex.split(entry["command"])
        if Path(words[0]).name == "ccache":
            del words[0]
        if Path(words[0]).name == "nvcc":
            continue
        at = words.index("-o")
        output = words[at + 1]
        del words[at : at + 2]
        words = [w for w in words if w not in ("-c", entry["file"], "-Winvalid-pch")]
        precompiled = "-include" in words
        while "-include" in words:
            at = words.index("-include")
            del words[at : at + 2]
        # What pip needed to build an extension is gone.
        if all(folder.is_dir() for folder in include_folders(words)):
            found.append(Command(Path(entry["file"]), words, output, precompiled))
    return found


def tier_of(command: Command) -> str | None:
    """Returns the CPU tier for which a source is compiled; None where it is for no certain one."""
    found = re.search(r"hrun_kernels_(\w+)\.dir", command.output)
    return found[1] if found else None


def command_for(header: Path, known: list[Command]) -> list[str] | None:
    """Returns the command for a header; None: the build has no command for its tier, or no
    bindings.
    """
    name = header.relative_to(ROOT).as_posix()
    if name.startswith(KERNEL_ROOMS):
        tiers = {tier: c.words for c in known if (tier := tier_of(c)) is not None}
        wanted = next((t for word, t in TIERS.items() if word in header.stem), None)
        if wanted is None:
            wanted = next(t for t in ("avx512", "neon", "scalar") if t in tiers)
        return tiers.get(wanted)
    for room, folder in (("cuda/", "cuda"), ("cpp/bindings/", "bindings")):
        if name.startswith(room) and not any(folder in c.source.parts for c in known):
            return None

    def shared(command: Command) -> int:
        return len(os.path.commonpath([command.source, header]))

    return max(known, key=shared).words


def first_include(file: Path, headers: set[Path]) -> tuple[str, Path | None]:
    """Returns what the file includes first, as it is written, and the header of ours that it is.
    There is no such file where another directive comes before, which may change or skip it.
    """
    text = file.read_text(encoding="utf-8").replace("#pragma once", "")
    found = re.search(r"^[ \t]*#[ \t]*(?:include[ \t]+(\S+))?", text, re.MULTILINE)
    if found is None or found[1] is None:
        return "", None
    name = found[1].strip('"<>')
    places = (file.parent / name, ROOT / "cpp" / name, ROOT / name)
    return found[1], next((p for p in places if p in headers), None)


def to_compile(headers: list[Path], known: list[Command]) -> list[Path]:
    """Returns the headers that no file begins with."""
    every = set(headers)
    sources = (c.source for c in known if not c.precompiled and c.source.exists())
    files = [*sources, *headers]
    proven = {first_include(file, every)[1] for file in files}
    return [h for h in headers if h not in proven]


def main() -> int:
    builds = [Path(name).resolve() for name in sys.argv[1:]]
    known = commands(builds)
    headers = sorted(p for top in ("cpp", "cuda") for p in (ROOT / top).rglob("*.h"))
    wanted = {h: command_for(h, known) for h in to_compile(headers, known)}
    built = {tier_of(c) for c in commands(builds[-1:])}
    kernels = {(tier, c.source): c for c in known if (tier := tier_of(c)) not in built}
    # What a header begins with, and the command.
    beginnings = {
        h: (first_include(h, set(headers))[0], tuple(words)) for h, words in wanted.items() if words
    }

    def compiler(words: list[str] | tuple[str, ...], *more: str) -> str:
        """Returns what the compiler says where it fails."""
        done = subprocess.run([*words, *more], capture_output=True, text=True, cwd=builds[0])
        return done.stderr or "the compiler failed" if done.returncode else ""

    def precompile(folder: Path, first: str, words: tuple[str, ...]) -> Path | None:
        """Precompiles a header that includes `first` alone; None: that does not compile."""
        header = folder / "first.h"
        header.write_text(f"#include {first}\n", encoding="utf-8")
        said = compiler(words, "-x", "c++-header", str(header), "-o", f"{header}.gch")
        return None if said else header

    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        tempfile.TemporaryDirectory() as scratch,
    ):
        common = [key for key, n in Counter(beginnings.values()).items() if key[0] and n > 2]
        folders = [Path(tempfile.mkdtemp(dir=scratch)) for _ in common]
        ready = dict(zip(common, pool.map(precompile, folders, *zip(*common)))) if common else {}

        def check(header: Path) -> str | None:
            words = wanted[header]
            if words is None:
                return None
            before = ready.get(beginnings[header])
            includes = ["-include", str(before)] if before else []
            includes += ["-include", str(header)]
            return compiler(words, "-fsyntax-only", "-x", "c++", *includes, os.devnull)

        def check_kernel(command: Command) -> str:
            return compiler(command.words, "-fsyntax-only", str(command.source))

        kernel_results = list(zip(kernels, pool.map(check_kernel, kernels.values())))
        results = list(zip(wanted, pool.map(check, wanted)))
    failed = [(h, text) for h, text in results if text]
    for header, text in failed:
        print(f"{header.relative_to(ROOT)} does not compile alone:\n{text[:2000]}")
    for (tier, source), text in kernel_results:
        if text:
            print(f"{source.relative_to(ROOT)} does not compile for {tier}:\n{text[:2000]}")
    skipped = [h.relative_to(ROOT).as_posix() for h, text in results if text is None]
    compiled = len(results) - len(failed) - len(skipped)
    print(f"{compiled} headers compile alone, {len(headers) - len(results)} come first in a file")
    if skipped:
        print(f"not in this build: {', '.join(skipped)}")
    if kernels:
        print(f"read for tiers that are not built: {len(kernels)} sources")
    return bool(failed or any(text for _, text in kernel_results))


if __name__ == "__main__":
    sys.exit(main())
