#!/usr/bin/env python3
"""Every header compiles alone: ``tools/check_headers.py BUILD`` (a configured build folder).

Each header is compiled with the command of a source of its own room, taken from
``compile_commands.json``.  Kernel headers take the command of the tier that they are for.
Prints what fails and ends with 1.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Headers for one instruction set, by a word in their names; the other kernel headers compile in
# any tier.
TIERS = {"avx512": "avx512", "avx2": "avx2", "half": "avx2", "neon": "neon", "scalar": "scalar"}
KERNEL_ROOMS = ("cpp/cpu/lanes", "cpp/cpu/kernels", "cpp/cpu/panels")


class Command(NamedTuple):
    """The compiler's command for a source, without input and output; ``output`` names the target."""

    source: Path
    words: list[str]
    output: str


def commands(build: Path) -> list[Command]:
    """Returns the command for every source of the build."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        words = shlex.split(entry["command"])
        if Path(words[0]).name == "ccache":
            del words[0]
        at = words.index("-o")
        output = words[at + 1]
        del words[at : at + 2]
        words = [w for w in words if w not in ("-c", entry["file"])]
        found.append(Command(Path(entry["file"]), words, output))
    return found


def command_for(header: Path, known: list[Command]) -> list[str] | None:
    """Returns the command for a header; None: the build has no command for its tier, or no
    bindings.
    """
    name = header.relative_to(ROOT).as_posix()
    if name.startswith(KERNEL_ROOMS):
        tiers = {
            found[1]: command.words
            for command in known
            if (found := re.search(r"hrun_kernels_(\w+)\.dir", command.output))
        }
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


def main() -> int:
    build = Path(sys.argv[1]).resolve()
    known = commands(build)
    headers = sorted(p for top in ("cpp", "cuda") for p in (ROOT / top).rglob("*.h"))

    def check(header: Path) -> tuple[Path, str | None]:
        words = command_for(header, known)
        if words is None:
            return header, None
        done = subprocess.run(
            [*words, "-fsyntax-only", "-x", "c++", "-include", str(header), os.devnull],
            capture_output=True,
            text=True,
            cwd=build,
        )
        return header, done.stderr if done.returncode else ""

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(check, headers))
    failed = [(h, text) for h, text in results if text]
    for header, text in failed:
        print(f"{header.relative_to(ROOT)} does not compile alone:\n{text[:2000]}")
    skipped = [h.relative_to(ROOT).as_posix() for h, text in results if text is None]
    print(f"{len(headers) - len(failed) - len(skipped)} headers compile alone")
    if skipped:
        print(f"not in this build: {', '.join(skipped)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
