"""No code of a high CPU tier may leak into the others.

The same source is compiled once per tier.  A weak function in those objects is a trap: the linker keeps one copy, perhaps
the AVX-512 one, for every CPU.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tier_objects() -> list[Path]:
    """Kernel objects of the optimised, unsanitized builds in the build folder."""
    found = []
    for cache in ROOT.glob("build/*/CMakeCache.txt"):
        text = cache.read_text()
        if "HRUN_SANITIZE:STRING=\n" in text and "CMAKE_BUILD_TYPE:STRING=Release\n" in text:
            found += sorted(
                cache.parent.glob("CMakeFiles/hrun_kernels_*.dir/cpp/cpu/kernels/*.cpp.o")
            )
    return found


def test_each_source_of_a_tier_exports_one_function_and_nothing_weak() -> None:
    objects = tier_objects()
    if not objects or not shutil.which("nm"):
        pytest.skip("needs nm and the objects of a build in build/")
    for path in objects:
        tier = path.parents[3].name.removeprefix("hrun_").removesuffix(".dir")
        exported = f"hrun::{tier}_{path.name.removesuffix('.cpp.o')}()"
        lines = subprocess.run(
            ["nm", "-C", path], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        symbols = [(line[17], line[19:]) for line in lines]
        assert [name for kind, name in symbols if kind in "WwVv"] == [], path
        assert [name for kind, name in symbols if kind == "T"] == [exported], path
