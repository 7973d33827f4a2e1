"""Tables of keys in a file: what a cache would find in a sequence itself, from a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.key_tables import BALANCE, MEAN, with_key_tables
from hrun.convert.parts import PartFile
from hrun.convert.source import Source
from hrun.convert.text import CHUNK_TOKENS
from hrun.errors import Error

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=CHUNK_TOKENS)


def written(source: Source, to: Path) -> str:
    write_plan(make_plan(source, PlanOptions("f32")), to)
    return str(to)


def with_tables(path: Path, ids: list[int], folder: Path) -> Source:
    source = open_source(path)
    return with_key_tables(source, PartFile(source), ids, None, folder)


def logits(path: str, ids: list[int], device: str = "cpu") -> np.ndarray:
    session = _core.Session(_core.Model.load(path, device=device), 256, type_k="rtq4", type_v="f16")
    return session.forward(ids, "all")


def test_tables_of_a_sequence_are_what_its_cache_finds(path: Path, tmp_path: Path) -> None:
    """A collector that sees positions 4 to 63 has the numbers of a cache, but for the cache's fp16 and the mean that it turns
    once for 64 positions."""
    model = _core.Model.load(str(path))
    ids = np.random.default_rng(3).integers(0, model.n_vocab, 200).tolist()
    collector = _core.KeyCollector(model.n_layers)
    _core.Session(model, 64).forward(ids[:64], "none", observer=collector)
    mean, balance = collector.tables(0)
    assert mean.shape == balance.shape and (balance > 0).all()
    source = with_tables(path, ids[:64] * (CHUNK_TOKENS // 64), tmp_path)
    plain = logits(str(path), ids)
    other = logits(written(source, tmp_path / "tables.gguf"), ids)
    assert other[:64].tobytes() == plain[:64].tobytes()  # nothing is coded yet
    assert other[64:].tobytes() != plain[64:].tobytes()
    exact = _core.Session(model, 256).forward(ids, "all")
    error = [np.square(x - exact)[64:].mean() for x in (plain, other)]
    assert error[1] < 2 * error[0]


def test_a_mean_that_is_wrong_is_read(path: Path, tmp_path: Path) -> None:
    """A far mean that is taken from keys and given back to scores costs precision, and no more."""
    model = _core.Model.load(str(path))
    ids = np.random.default_rng(4).integers(0, model.n_vocab, 200).tolist()
    source = with_tables(path, ids * 3, tmp_path)
    exact = _core.Session(model, 256).forward(ids, "all")

    def error(factor: float) -> float:
        entries = [
            replace(e, value=[factor * x + factor - 1 for x in e.value]) if e.key == MEAN else e
            for e in source.metadata
        ]
        file = written(replace(source, metadata=entries), tmp_path / f"{factor}.gguf")
        return float(np.square(logits(file, ids) - exact)[64:].mean())

    found = error(1), error(3)
    assert 1.5 * found[0] < found[1] < 0.1 * exact.var(), found


def test_tables_that_do_not_fit_are_named(path: Path, tmp_path: Path) -> None:
    source = with_tables(path, list(range(64)) * 8, tmp_path)

    def changed(key: str, change: Callable[[list[float]], list[float]]) -> Source:
        entries = [
            replace(e, value=change(e.value)) if e.key == key else e for e in source.metadata
        ]
        return replace(source, metadata=entries)

    for key, change, message in (
        (MEAN, lambda v: v[1:], "the keys of all layers have"),
        (MEAN, lambda v: [float("nan"), *v[1:]], "not finite"),
        (BALANCE, lambda v: [0.0, *v[1:]], "positive factor"),
    ):
        with pytest.raises(Error, match=f"{key}.*{message}"):
            file = written(changed(key, change), tmp_path / "bad.gguf")
            _core.Model.load(file)
    alone = [e for e in source.metadata if e.key != BALANCE]
    with pytest.raises(Error, match="belong together"):
        _core.Model.load(written(replace(source, metadata=alone), tmp_path / "alone.gguf"))


@pytest.mark.usefixtures("emulated_cuda")
def test_cuda_reads_them_too(path: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(5).integers(0, 90, 130).tolist()
    source = with_tables(path, ids * 4, tmp_path)
    file = written(source, tmp_path / "tables.gguf")
    cpu, cuda = logits(file, ids), logits(file, ids, "cuda")
    assert np.median(np.abs(cpu - cuda)) < 2e-3 * cpu.std()
