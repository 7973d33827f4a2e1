"""The shipped package: types of the extension, the compiler that is needed, the source
distribution.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import hrun._core as core

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "python" / "hrun" / "_core.pyi"


def stubbed(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    named = (ast.FunctionDef, ast.ClassDef)
    names = {s.name: s for s in body if isinstance(s, named)}
    return names | {
        s.target.id: s
        for s in body
        if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
    }


def public(names: object) -> set[str]:
    return {n for n in names if not n.startswith("_")}  # type: ignore[attr-defined]


def test_the_stub_has_what_the_extension_has() -> None:
    found = stubbed(ast.parse(STUB.read_text(encoding="utf-8")).body)
    assert public(found) == public(dir(core)), "run tools/make_stubs.py"
    for name, statement in found.items():
        if isinstance(statement, ast.ClassDef) and not hasattr(getattr(core, name), "__members__"):
            own = public(vars(getattr(core, name)))
            assert public(stubbed(statement.body)) == own, f"{name}: run tools/make_stubs.py"


def test_the_stub_is_what_the_generator_makes() -> None:
    pytest.importorskip("nanobind", minversion="3.0")
    sys.path.insert(0, str(ROOT / "tools"))
    from make_stubs import made

    assert STUB.read_text(encoding="utf-8") == made(), "run tools/make_stubs.py"


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake")
def test_an_old_compiler_is_refused_in_words(tmp_path: Path) -> None:
    old = shutil.which("g++-11")
    if old is None:  # one that says it is
        old = str(tmp_path / "g++-11")
        Path(old).write_text('#!/bin/sh\nexec c++ -U__GNUC__ -D__GNUC__=11 "$@"\n')
        Path(old).chmod(0o755)
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-DHRUN_PYTHON=OFF"]
    done = subprocess.run(
        [*command, "-DHRUN_CUDA=OFF", f"-DCMAKE_CXX_COMPILER={old}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "hrun needs GCC 12 or newer; found 11" in done.stderr


def test_the_source_distribution(tmp_path: Path) -> None:
    backend = pytest.importorskip("scikit_build_core.build")
    command = f"import os; os.chdir({str(ROOT)!r}); from scikit_build_core.build import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, timeout=120)
    assert backend
    (made,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        info = archive.extractfile(made.name.removesuffix(".tar.gz") + "/PKG-INFO")
        assert info is not None
        metadata = info.read().decode()
    assert {
        "python/hrun/_core.pyi",
        "python/hrun/py.typed",
        "models/demo.gguf",
        "README.md",
    } <= names
    assert not any(name.startswith((".ci", "build/", ".git/")) for name in names)
    assert "Classifier: Typing :: Typed" in metadata and "Author: The hrun authors" in metadata


@pytest.mark.skipif(not os.environ.get("HRUN_BUILD_WHEEL"), reason="minutes: HRUN_BUILD_WHEEL=1")
def test_a_wheel_runs_without_a_compiler(tmp_path: Path) -> None:
    """The wheel is built, repaired for other systems, installed in an environment of its own, and
    asked a question; where nvcc is found, the CUDA backend's wheel is built and found there too.
    """
    cuda = ["--cuda"] if shutil.which("nvcc") else []
    command = [sys.executable, str(ROOT / "tools" / "build_wheel.py"), "-o", str(tmp_path), *cuda]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    wheels = sorted(wheel.name for wheel in tmp_path.glob("*.whl"))
    assert len(wheels) == 1 + len(cuda) and all("manylinux" in name for name in wheels)
    assert not cuda or (wheels[1].startswith("hrun_cuda") and "-py3-none-" in wheels[1])
