"""llama.cpp as a judge: its libraries, headers and tools, from HRUN_LLAMA_CPP.

HRUN_LLAMA_CPP is its source tree, built in build/, or the folder of what was built (build/bin).  Tests that need it are skipped,
and say so, where it is not set or lacks what they need.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

JUDGES = Path(__file__).resolve().parents[1] / "judges"


def _folder() -> Path:
    name = os.environ.get("HRUN_LLAMA_CPP", "")
    if not name:
        pytest.skip("HRUN_LLAMA_CPP names no tree or build of llama.cpp")
    return Path(name).resolve()


def built() -> Path:
    """The folder with its libraries and tools."""
    folder = _folder()
    for where in (folder, folder / "build" / "bin"):
        if any(where.glob("libllama.*")):
            return where
    pytest.skip(f"HRUN_LLAMA_CPP: {folder} has no libllama, and neither has its build/bin")


def source() -> Path:
    """Its source tree."""
    folder = _folder()
    for where in (folder, *folder.parents):
        for tree in (where, where / "src"):
            if (tree / "include" / "llama.h").is_file():
                return tree
    pytest.skip(f"HRUN_LLAMA_CPP: no source tree of llama.cpp at or above {folder}")


def tool(name: str) -> Path:
    path = built() / name
    if not path.is_file():
        pytest.skip(f"HRUN_LLAMA_CPP: {path} is not built")
    return path


def compiled(name: str, folder: Path) -> Path:
    """A program of tests/judges, compiled against libllama into `folder`."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    libraries, tree = built(), source()
    program = folder / name
    subprocess.run(
        [compiler, "-O1", "-std=c++17", f"-I{tree}/include", f"-I{tree}/ggml/include"]
        + [str(JUDGES / f"{name}.cpp"), "-o", str(program), f"-L{libraries}"]
        + ["-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"],
        check=True,
    )
    return program


def logits(
    program: Path, model: Path, ids: Sequence[int], n_vocab: int, out: Path | None = None
) -> np.ndarray:
    """float32 [tokens, n_vocab], of llama_logits.cpp; by way of the file `out`, which lies beside the model."""
    out = out or model.with_suffix(".logits")
    done = subprocess.run(
        [str(program), str(model), str(out), *map(str, ids)], capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:].decode("utf-8", "replace")
    return np.fromfile(out, np.float32).reshape(len(ids), n_vocab)
