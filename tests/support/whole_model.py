"""Calibrates by running the whole model at once: the reference for calibration part by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrun import _core
from hrun.convert import open_source
from hrun.convert.compare import Comparison, Differences
from hrun.convert.moments import InputMoments
from hrun.convert.parts import PartFile
from hrun.convert.text_moments import TextMoments


def matrices(path: Path) -> list[str]:
    """Names of the tensors of a GGUF that are no vectors, in its order."""
    return [t.name for t in _core.GGUFFile(str(path)).tensors if len(t.shape) > 1]


def text_moments(
    path: Path,
    tokens: Sequence[int],
    folder: Path,
    memory: int = 1 << 30,
    chunk: int = 32,
    n_threads: int = 0,
) -> TextMoments:
    """Returns the moments of all matrices of a GGUF."""
    file = PartFile(open_source(path), n_threads=n_threads)
    names = matrices(path)
    return TextMoments(file, tokens, names, memory, folder, n_threads, chunk=chunk)


def whole_moments(
    path: Path, tokens: Sequence[int], chunk: int = 32
) -> dict[tuple[str, ...], InputMoments]:
    model = _core.Model.load(str(path), device="cpu")
    session = _core.Session(model, chunk, n_batch=chunk)
    collector = _core.MomentCollector(model)
    session.forward(list(tokens[:1]), "last", collector)
    numbers = [i for i, found in enumerate(collector.inputs) if found.cols % 32 == 0]
    collector.select(numbers, [0] * len(numbers))
    for start in range(0, len(tokens) - chunk + 1, chunk):
        session.truncate(0)
        session.forward(list(tokens[start : start + chunk]), "all", collector)
    return {
        tuple(m.tensors): InputMoments(
            tuple(m.tensors), m.cols, m.moments(), m.power, m.peak, m.n_tokens, m.sample()
        )
        for m in (collector.inputs[i] for i in numbers)
        if m.n_tokens and m.tensors
    }


def whole_log_probabilities(path: Path, chunks: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns the log-probabilities of each chunk without its first quarter, float32 [positions,
    vocabulary].
    """
    model = _core.Model.load(str(path), device="cpu")
    out = []
    for chunk in chunks:
        session = _core.Session(model, len(chunk), n_batch=len(chunk))
        rows = session.forward(list(chunk), "all")[len(chunk) // 4 :]
        rows -= rows.max(axis=1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        out.append(rows)
    return np.concatenate(out)


def whole_key_tables(
    path: Path, texts: Sequence[Sequence[int]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the mean of keys and their balance, layer by layer."""
    model = _core.Model.load(str(path), device="cpu")
    collector = _core.KeyCollector(model.n_layers)
    for text in texts:
        session = _core.Session(model, len(text), n_batch=len(text))
        session.forward(list(text), "none", collector)
    return [collector.tables(layer) for layer in range(model.n_layers)]


def whole_differences(
    reference: Path, own: Path, texts: Sequence[Sequence[int]], step: int = 7
) -> Differences:
    """Compares two models on the second halves of texts, `step` positions at a time."""
    sessions = [
        _core.Session(_core.Model.load(str(path), device="cpu"), max(map(len, texts)))
        for path in (reference, own)
    ]
    found = Comparison()
    for text in texts:
        for session in sessions:
            session.truncate(0)
            session.forward(list(text[: len(text) // 2]), "none")
        for at in range(len(text) // 2, len(text) - 1, step):
            end = min(at + step, len(text) - 1)
            logits = [session.forward(list(text[at:end]), "all") for session in sessions]
            found.add(*logits, list(text[at + 1 : end + 1]))
    return found.result()


def same_moments(a: InputMoments, b: InputMoments) -> bool:
    """Are the moments the same, to the last bit?"""
    return (
        (a.tensors, a.cols, a.n_tokens) == (b.tensors, b.cols, b.n_tokens)
        and np.array_equal(a.values, b.values)
        and np.array_equal(a.power, b.power)
        and a.peak is not None
        and b.peak is not None
        and np.array_equal(a.peak, b.peak)
        and a.sample is not None
        and b.sample is not None
        and np.array_equal(a.sample, b.sample)
    )
