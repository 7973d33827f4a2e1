"""llama.cpp reads the encoders that hrun writes: the vectors of a text's tokens beside hrun's.

    PYTHONPATH=python python tests/judges/llama_vectors.py LLAMA_SOURCE LLAMA_BUILD/bin

compiles llama_vectors.cpp against libllama.  Needs torch and transformers, which make the models.  Fails where two vectors
differ by more than llama.cpp's table of GELU explains.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from hrun import _core  # noqa: E402
from hrun.convert import PlanOptions, make_plan, open_source, write_plan  # noqa: E402
from tiny_encoders import ENCODERS, N_VOCAB, write_encoder  # noqa: E402

BOUND = 5e-3


def main() -> int:
    source, libraries = map(Path, sys.argv[1:3])
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = folder / "llama_vectors"
        subprocess.run(
            ["g++", "-O1", "-std=c++17", f"-I{source}/include", f"-I{source}/ggml/include", str(HERE / "llama_vectors.cpp"),
             "-o", str(program), f"-L{libraries}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"],
            check=True,
        )  # fmt: skip
        ids = np.random.default_rng(5).integers(5, N_VOCAB, 60).tolist()
        for i, encoder in enumerate(ENCODERS):
            write_encoder(encoder, folder / str(i), pooling="mean_tokens")
            path = folder / f"{i}.gguf"
            write_plan(make_plan(open_source(folder / str(i)), PlanOptions("f32")), path)
            ours = _core.Encoder(_core.Model.load(str(path))).encode([ids], "none")[0]
            printed = subprocess.run(
                [str(program), str(path), *map(str, ids)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # its log is no UTF-8
                check=True,
            ).stdout
            theirs = np.array([line.split() for line in printed.splitlines()], np.float64)
            difference = float(np.abs(theirs - ours).max())
            worst = max(worst, difference)
            print(f"{encoder}: {difference:.2g} (largest value {np.abs(ours).max():.2g})")
    return 0 if worst < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
