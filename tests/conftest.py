"""Fixtures for all tests: tiny models made on the spot, vocabularies of real models, the emulated CUDA backend."""

from __future__ import annotations

import lzma
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
sys.path.insert(0, str(ROOT / "tools"))

from make_tiny_models import TinyConfig, write_tiny_model  # noqa: E402

# A test run started in the background of a shell inherits "ignore SIGINT" and would hand it on to the commands that the
# tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Whatever the machine has, tests run on the CPU unless they ask for a device; and the device that they get is emulated, unless
# only those for a GPU were asked for.
os.environ.setdefault("HRUN_DEVICE", "cpu")
if "PYTEST_XDIST_WORKER" in os.environ:  # torch in several workers: each has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
EMULATED = Path(
    os.environ.get("HRUN_EMULATED_LIBRARY") or ROOT / "build/emulated/libhrun_cuda_emulated.so"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--build-emulated",
        action="store_true",
        default=bool(os.environ.get("HRUN_BUILD_EMULATED")),
        help="build the emulated CUDA backend first (minutes; also HRUN_BUILD_EMULATED=1); "
        "without it, tests marked emulated run where it is built and up to date",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment before anything opens a backend.  The build runs once, in the process
    that starts the workers.
    """
    if config.getoption("-m") != "gpu":
        os.environ["HRUN_CUDA_LIBRARY"] = str(EMULATED)
    worker = hasattr(config, "workerinput")
    if config.getoption("dist", None) == "load":  # -n alone
        config.option.dist = "loadgroup"
    if config.getoption("--build-emulated") and not worker:
        load_build_tool().build(EMULATED)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The quick lane does not even read files that are slow as a whole: they are half of the code."""
    if config.getoption("-m") != "not slow" or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if re.search(r"^pytestmark = .*pytest\.mark\.slow", text, re.MULTILINE) else None


def load_build_tool() -> Any:
    sys.path.insert(0, str(ROOT / "tools"))
    import build_emulated

    return build_emulated


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long tests first, so that no worker ends late; tests that share something costly stay
    with one worker.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        info = item._fixtureinfo  # type: ignore[attr-defined]
        own = [
            defs[-1] for name, defs in info.name2fixturedefs.items() if name in info.names_closure
        ]
        if "emulated_cuda" in info.names_closure:
            item.add_marker("emulated")
        if any(d.scope == "module" and d.baseid.endswith(".py") for d in own):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        elif "live" in info.names_closure:
            item.add_marker(pytest.mark.xdist_group("live"))


@pytest.fixture(scope="session")
def emulated_cuda(pytestconfig: pytest.Config) -> None:
    """The CUDA backend with its kernels run on the CPU; skips where it is not built, or older than its sources."""
    if os.environ.get("HRUN_EMULATED_LIBRARY") or pytestconfig.getoption("--build-emulated"):
        return
    if not load_build_tool().is_current(EMULATED):
        pytest.skip("the emulated CUDA backend is not built or not up to date: --build-emulated")


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
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """vocabulary("gpt-2") -> a GGUF file of tests/data/vocab, which holds a tokenizer alone."""
    folder = tmp_path_factory.mktemp("vocabularies")

    def unpack(name: str) -> Path:
        path = folder / f"{name}.gguf"
        if not path.exists():
            path.write_bytes(lzma.decompress((DATA / "vocab" / f"{name}.gguf.xz").read_bytes()))
        return path

    return unpack
