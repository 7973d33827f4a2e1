"""Types such as q4_k_m against llama-quantize: each tensor of every architecture gets the same format.

Optional: `HRUN_LLAMA_CPP=FOLDER python -m pytest tests/oracles/test_oracle_llama_quantize.py` with the checkout of llama.cpp, or
the folder of its programs, and `pip install torch transformers`; HRUN_REAL_MODELS as in test_real_models.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.mixes import MIXES
from tiny_transformers import TINY, write_checkpoint

pytestmark = pytest.mark.slow

# llama-quantize wants a key that other files of the architecture have.
REFUSED = ("deepseek2, lite", "youtu")
# Small matrices that hrun keeps as floats.
KEPT = re.compile(r"\.ssm_(alpha|beta|ba)\.weight$")


def program() -> str:
    root = os.environ.get("HRUN_LLAMA_CPP", "")
    places = os.pathsep.join([root, os.path.join(root, "build", "bin"), os.environ.get("PATH", "")])
    return shutil.which("llama-quantize", path=places) or pytest.skip(
        "no llama-quantize on PATH or in HRUN_LLAMA_CPP"
    )


def their_formats(path: Path, mix: str) -> dict[str, str]:
    """Returns the formats that llama-quantize would write, by its --dry-run."""
    done = subprocess.run(
        [program(), "--dry-run", str(path), mix.upper()], capture_output=True, text=True, timeout=60
    )
    line = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) .* type = +(\w+),.*?(?:\((\w+)\))?$", re.M)
    found = {
        name: (new or old).lower() for name, old, new in line.findall(done.stdout + done.stderr)
    }
    assert found, done.stderr[-500:]
    return found


def assert_same(path: Path) -> None:
    source = open_source(path)
    for mix in MIXES:
        own = {p.tensor.name: p.format.name for p in make_plan(source, PlanOptions(mix)).tensors}
        theirs = their_formats(path, mix)
        assert own.keys() == theirs.keys()
        for name, format in own.items():
            expected = "f32" if KEPT.search(name) else theirs[name]
            assert format == expected, f"{mix}: {name}"


@pytest.mark.parametrize("name", [name for name in TINY if name not in REFUSED])
def test_small_models_of_every_architecture(name: str, tmp_path: Path) -> None:
    program()
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(name, tmp_path / "hf")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f16")), tmp_path / "out.gguf")
    assert_same(tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["smollm2.gguf", "gemma3.gguf"])
def test_real_models(name: str, tmp_path: Path) -> None:
    program()
    path = Path(os.environ.get("HRUN_REAL_MODELS", "")) / name
    if not os.environ.get("HRUN_REAL_MODELS") or not path.is_file():
        pytest.skip(f"HRUN_REAL_MODELS names no folder with {name} (tools/fetch_real_models.py)")
    write_plan(make_plan(open_source(path), PlanOptions("f16", pure=True)), tmp_path / "out.gguf")
    assert_same(tmp_path / "out.gguf")
