"""Fixtures for all tests: tiny models made on the spot, and the reference data beside the checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from make_tiny_models import TinyConfig, write_tiny_model  # noqa: E402

# A test run started in the background of a shell inherits "ignore SIGINT" and would hand it on to the commands that the
# tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Whatever the machine has, tests run on the CPU unless they ask for a device; and the device that they get is emulated, unless
# only those for a GPU were asked for.
os.environ.setdefault("HRUN_DEVICE", "cpu")
EMULATED = Path(
    os.environ.get("HRUN_EMULATED_LIBRARY") or ROOT / "build/emulated/libhrun_cuda_emulated.so"
)


def pytest_configure(config: pytest.Config) -> None:
    """Before anything opens a backend."""
    if config.getoption("-m") != "gpu":
        os.environ["HRUN_CUDA_LIBRARY"] = str(EMULATED)


@pytest.fixture(scope="session")
def emulated_cuda() -> None:
    """The CUDA backend with its kernels run on the CPU, built where it is not up to date; skips where it cannot be built."""
    if os.environ.get("HRUN_EMULATED_LIBRARY"):
        return
    if not shutil.which("cmake"):
        pytest.skip("needs cmake to build the emulated CUDA backend")
    options = [
        "-DHRUN_PYTHON=OFF",
        "-DHRUN_CUDA=OFF",
        "-DHRUN_EMULATED=ON",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    for step in (
        ["-S", str(ROOT), "-B", str(EMULATED.parent), *options],
        ["--build", str(EMULATED.parent), "-j", "2", "--target", "hrun_cuda_emulated"],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (
            f"cmake {' '.join(step)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_model(**fields of TinyConfig) -> path of a random Llama model; equal arguments give the same file."""
    folder = tmp_path_factory.mktemp("tiny-models")
    made: dict[str, Path] = {}

    def make(**fields: object) -> Path:
        config = TinyConfig(**fields)  # type: ignore[arg-type]
        key = repr(config)
        if key not in made:
            made[key] = write_tiny_model(folder / f"tiny-{len(made)}.gguf", config)
        return made[key]

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder
