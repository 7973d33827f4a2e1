"""The CUDA kernels compile for two architectures, and no hot one spills registers or does without tensor cores."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# The checker must find this: an array with indices that only the device knows lies in local memory.
BAD_KERNEL = """
struct Walk {
  const int* from;
  int* to;
  __device__ void operator()() const {
    int table[64] = {};
    for (int i = 0; i < 64; ++i) table[from[i] & 63] += i;
    to[threadIdx.x] = table[from[threadIdx.x] & 63];
  }
};
template <class Kernel>
__global__ void run_kernel(const Kernel kernel) { kernel(); }
void launch(Walk walk) { run_kernel<Walk><<<1, 32>>>(walk); }
"""


def load_tool() -> ModuleType:
    """tools/check_cuda_resources.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "check_cuda_resources", ROOT / "tools" / "check_cuda_resources.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture(scope="module")
def nvcc() -> str:
    """The compiler, where it is there and new enough."""
    path = tool.find_nvcc()
    if path is None:
        pytest.skip("nvcc is not installed")
    version = re.search(
        r"release (\d+)\.(\d+)",
        subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout,
    )
    if version is None or (int(version[1]), int(version[2])) < (12, 4):
        pytest.skip(f"nvcc 12.4 or newer is needed, this is {version[0] if version else 'unknown'}")
    return path


def test_the_hot_kernels_fit_their_registers(nvcc: str) -> None:
    kernels = tool.compile_all(nvcc)
    assert {k.arch for k in kernels} == {f"sm_{a}" for a in tool.ARCHITECTURES}
    assert [f"{k.name} for {k.arch}: {p}" for k in kernels for p in k.problems()] == []
    kinds = {k.kind for k in kernels}
    assert set(tool.TENSOR) <= kinds, "a kernel that must use tensor cores is gone or renamed"


def test_local_memory_and_missing_tensor_cores_are_found(
    nvcc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "walk.cu"
    source.write_text(BAD_KERNEL)
    monkeypatch.setitem(tool.TENSOR, "Walk", tool.HMMA)
    for kernel in tool.compile_file(nvcc, source, ("80", "90a"), tmp_path):
        assert kernel.kind == "Walk"
        assert sorted(kernel.problems()) == [
            "256 bytes of local memory",
            "LDL instructions",
            "STL instructions",
            "no tensor-core instructions",
        ]


def test_what_is_cold_exists() -> None:
    text = "".join(p.read_text() for p in (ROOT / "cuda").rglob("*.[ch]*"))
    assert [name for name in tool.COLD if not re.search(rf"struct {name}\b", text)] == []
    assert [
        name for name in tool.COLD_FILES if not (ROOT / "cuda" / "kernels" / name).exists()
    ] == []


@pytest.mark.parametrize(
    ("nvcc_version", "cards", "expected"),
    [
        ("13.0", "", "80;90a;120"),
        ("12.4", "", "80;90a"),  # does not know 12.0
        ("13.0", "8.9\n", "89"),
        ("13.0", "9.0\n8.0\n9.0\n", "80;90a"),
        ("13.0", "9.0\n", "80-virtual;90a"),  # PTX for whatever card comes later
        ("12.8", "11.0\n", "80;90a;120"),  # knows 12.0, but not 11.0
        ("13.0", "11.0\n", "110"),
        ("13.0", "12.1\n", "120"),  # runs the code of 12.0
        ("12.4", "12.0\n8.6\n", "86"),
        ("12.4", "12.0\n", "80;90a"),
        ("13.0", "7.5\n", "80;90a;120"),  # too old to be used
    ],
)
def test_the_build_is_for_the_cards_that_are_here(
    tmp_path: Path, nvcc_version: str, cards: str, expected: str
) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    script = tmp_path / "ask.cmake"
    script.write_text(f'''include("{ROOT}/cuda/architectures.cmake")
hrun_cuda_architectures(found {nvcc_version} "{cards}")
message("${{found}}")
''')
    assert (
        subprocess.run(
            [cmake, "-P", script], capture_output=True, text=True, check=True
        ).stderr.strip()
        == expected
    )
