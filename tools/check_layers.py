"""Check that the arrows between the rooms of the house point one way (DESIGN.md, section 1).

Reads every `#include "..."` under cpp/ and cuda/ and compares it with the table below.
Usage: python tools/check_layers.py [repository]; prints each violation, exit status 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# room -> rooms whose headers it may include, besides its own
ALLOWED = {
    "base": set(),
    "formats": {"base"},
    "encode": {"base", "formats"},
    "gguf": {"base", "formats"},
    "backend": {"base", "formats"},
    "cpu": {"base", "formats", "backend"},
    "cuda": {"base", "formats", "backend"},
    # The only room that knows a backend by name: the CPU's; others are libraries of their own.
    "devices": {"base", "formats", "backend", "cpu"},
    "model": {"base", "formats", "encode", "gguf", "backend", "devices"},
    "engine": {"base", "formats", "gguf", "backend", "model"},
    "calibration": {"base", "formats", "gguf", "backend", "model"},
    "tokenizer": {"base"},
    "bindings": {
        "base",
        "formats",
        "encode",
        "gguf",
        "backend",
        "cpu",
        "devices",
        "model",
        "engine",
        "calibration",
        "tokenizer",
    },
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SOURCES = {".h", ".cpp", ".cu", ".cuh"}


def violations(root: Path) -> list[str]:
    """Every include that crosses the rooms against the table, as 'file: reason'."""
    found = []
    files = [
        p for top in ("cpp", "cuda") for p in sorted((root / top).rglob("*")) if p.suffix in SOURCES
    ]
    for path in files:
        relative = path.relative_to(root)
        room = "cuda" if relative.parts[0] == "cuda" else relative.parts[1]
        if room not in ALLOWED:
            found.append(f"{relative}: no such room: {room}")
            continue
        for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
            other = target.split("/")[0]
            if "/" not in target or other == room:
                continue
            if other not in ALLOWED[room]:
                found.append(f"{relative}: includes {target}, but {room} may not know {other}")
    return found


if __name__ == "__main__":
    problems = violations(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    )
    print("\n".join(problems) or "layers: clean")
    sys.exit(1 if problems else 0)
