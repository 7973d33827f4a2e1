"""Tokens per second of an encoder of BERT's base shape, beside torch on as many threads.

    python tools/bench/encoder.py --prepare FOLDER    # writes a random model as F32, F16, Q8_0 and RTQ4 (once)
    python tools/bench/encoder.py FOLDER --threads 2 --texts 16 --tokens 128

Needs torch and transformers.  Both take the same token ids, torch as one batch without padding; runs alternate, and the medians
of some are compared.  The cosine is between both models' vectors (mean pooling).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))

KINDS = ("f32", "f16", "q8_0", "rtq4")


def prepare(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_encoders import word_tokenizer

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder / "hf")
    (folder / "hf" / "tokenizer.json").write_text(word_tokenizer(), encoding="utf-8")
    for kind in KINDS:
        write_plan(
            make_plan(open_source(folder / "hf"), PlanOptions(kind)), folder / f"{kind}.gguf"
        )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.folder)
        return
    import torch
    from transformers import BertModel

    from hrun import _core

    torch.set_num_threads(options.threads)
    ids = np.random.default_rng(0).integers(5, 30000, (options.texts, options.tokens))
    torch_model = BertModel.from_pretrained(options.folder / "hf", add_pooling_layer=False).eval()
    tensor = torch.tensor(ids)

    def by_torch() -> np.ndarray:
        with torch.no_grad():
            vectors: np.ndarray = torch_model(tensor).last_hidden_state.mean(dim=1).numpy()
        return vectors

    models = {
        kind: _core.Encoder(
            _core.Model.load(str(options.folder / f"{kind}.gguf"), n_threads=options.threads)
        )
        for kind in options.kinds
    }
    texts = ids.tolist()
    works: dict[str, Callable[[], np.ndarray]] = {"torch float32": by_torch}
    for kind, encoder in models.items():
        works[f"hrun {kind}"] = lambda e=encoder: np.concatenate(e.encode(texts, "mean"))  # type: ignore[misc]
    vectors = {name: work() for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.runs):
        for name, work in works.items():
            times[name].append(seconds(work))
    base = statistics.median(times["torch float32"])
    exact = vectors["torch float32"]
    print(
        f"{options.texts} texts of {options.tokens} tokens, {options.threads} threads, medians of {options.runs}"
    )
    for name, found in times.items():
        median = statistics.median(found)
        dots = (vectors[name] * exact).sum(axis=1)
        sizes = np.linalg.norm(vectors[name], axis=1) * np.linalg.norm(exact, axis=1)
        print(f"{name:14} {ids.size / median:8.0f} tok/s {base / median:6.2f}x torch, cosine {(dots / sizes).min():.5f}")  # fmt: skip


if __name__ == "__main__":
    main()
