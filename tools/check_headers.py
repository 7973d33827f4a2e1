#!/usr/bin/env python3
"""Every header compiles alone: ``tools/check_headers.py BUILD`` (a configured build folder).

Each header is compiled with the command of a source of its own room, taken from
``compile_commands.json``.  Kernel headers take the command of the tier that they are for.
Prints what fails and ends with 1.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Headers for one instruction set, by a word in their names; the other kernel headers compile in
# any tier.
TIERS = {"avx512": "avx512", "avx2": "avx2", "half": "avx2", "neon": "neon", "scalar": "scalar"}
KERNEL_ROOMS = ("cpp/cpu/lanes", "cpp/cpu/kernels", "cpp/cpu/panels")


def commands(build: Path) -> list[tuple[Path, list[str]]]:
    """The sources of the build and their commands, without input and output."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        words = shlex.split(entry["command"])
        if Path(words[0]).name == "ccache":
            words = words[1:]
        if "-o" in words:
            tier = Path(words[words.index("-o") + 1]).parts
            del words[words.index("-o") : words.index("-o") + 2]
        words = [w for w in words if w != "-c" and w != entry["file"]]
        found.append((Path(entry["file"]), words + [f"--where={'/'.join(tier)}"]))
    return found


def command_for(header: Path, known: list[tuple[Path, list[str]]]) -> list[str] | None:
    """None: the build has no command for the header's tier, or no bindings."""
    name = header.relative_to(ROOT).as_posix()
    if name.startswith(KERNEL_ROOMS):
        wanted = next((t for word, t in TIERS.items() if word in header.stem), None)
        tiers = {
            words[-1].split("hrun_kernels_")[1].split(".dir")[0]: words
            for _, words in known
            if "hrun_kernels_" in words[-1]
        }
        if wanted is None:
            wanted = next(t for t in ("avx512", "neon", "scalar") if t in tiers)
        words = tiers.get(wanted)
        return words and words[:-1]
    if name.startswith("cuda/"):
        suited = [w for path, w in known if "/cuda/" in path.as_posix()]
        return suited[0][:-1] if suited else None

    if name.startswith("cpp/bindings/") and not any("bindings" in p.parts for p, _ in known):
        return None

    def shared(path: Path) -> int:
        return len(os.path.commonpath([path, header]))

    return max(known, key=lambda item: shared(item[0]))[1][:-1]


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
