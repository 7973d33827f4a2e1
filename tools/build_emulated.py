"""Build the emulated CUDA backend, whose kernels run on the CPU: python tools/build_emulated.py [LIBRARY]

The tests marked ``emulated`` use it.  No CUDA toolkit is needed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "build/emulated/libhrun_cuda_emulated.so"
SOURCES = ("cpp", "cuda", "CMakeLists.txt")


def is_current(library: Path) -> bool:
    """Is the library there and newer than everything it is made of?"""
    if not library.exists():
        return False
    built = library.stat().st_mtime
    files = [p for name in SOURCES for p in [ROOT / name, *(ROOT / name).rglob("*")] if p.is_file()]
    return all(p.stat().st_mtime <= built for p in files)


def build(library: Path, jobs: int = 2) -> None:
    """Configures and builds; raises SystemExit with the compiler's words where that fails."""
    folder = library.parent
    options = [
        "-DHRUN_PYTHON=OFF",
        "-DHRUN_CUDA=OFF",
        "-DHRUN_EMULATED=ON",
        # The kernels compile twice as fast as with -O3.
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
    ]
    for step in (
        ["-S", str(ROOT), "-B", str(folder), *options],
        ["--build", str(folder), "-j", str(jobs), "--target", "hrun_cuda_emulated"],
    ):
        done = subprocess.run(["cmake", *step], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"cmake {' '.join(step)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    library.touch()  # a source whose change left the library as it was


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY)
