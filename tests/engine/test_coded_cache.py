"""Models with coded caches: the bits depend on positions alone, in sessions and in the engine, whatever is cut or shared."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine_plans import ask_in_any_order
from hrun import Runtime, _core
from hrun.cache_memory import bytes_per_token
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.errors import ArgumentError, UnsupportedModelError
from tiny_transformers import N_VOCAB, TINY, write_checkpoint

pytestmark = pytest.mark.slow

TIERS = [t.name for t in _core.cpu_tiers() if t.available]
PAIRS = [("rtq4", "rtq3"), ("rtq8", "rtq8"), ("rtq3", "f16"), ("f16", "rtq2"), ("rtq5", "rtq4")]


def session(model: _core.Model, pair: tuple[str, str], n_batch: int = 512) -> _core.Session:
    return _core.Session(model, 512, type_k=pair[0], type_v=pair[1], n_batch=n_batch)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> _core.Model:
    return _core.Model.load(str(tiny_model(tied=False, n_ctx=512)), n_threads=2)


@pytest.fixture(scope="module")
def ids(model: _core.Model) -> list[int]:
    return np.random.default_rng(1).integers(0, model.n_vocab, 330).tolist()


@pytest.mark.parametrize("pair", PAIRS)
def test_logits_do_not_depend_on_the_passes(
    model: _core.Model, ids: list[int], pair: tuple[str, str]
) -> None:
    want = session(model, pair).forward(ids, "all")
    plain = session(model, ("f16", "f16")).forward(ids, "all")
    assert want[:64].tobytes() == plain[:64].tobytes()  # nothing is coded yet
    assert want[64:].tobytes() != plain[64:].tobytes()
    for n_batch in (1, 7, 64, 65, 128):
        got = session(model, pair, n_batch).forward(ids, "all")
        assert got.tobytes() == want.tobytes(), n_batch


@pytest.mark.parametrize("pair", PAIRS)
def test_bytes_are_those_that_are_told(model: _core.Model, pair: tuple[str, str]) -> None:
    params = _core.read_spec(str(model.path)).params
    told = [bytes_per_token(params, *p) for p in (pair, ("f16", "f16"))]
    taken = [session(model, p).memory_bytes for p in (pair, ("f16", "f16"))]
    assert taken[0] - taken[1] == 512 * (told[0] - told[1])


def test_a_session_that_pretends_goes_on(model: _core.Model, ids: list[int]) -> None:
    s = session(model, PAIRS[0])
    s.forward(ids[:256], "none")
    s.pretend(448)
    assert s.n_past == 448
    assert np.isfinite(s.forward(ids[:64], "all")).all()
    for n, at in ((449, 256), (448, 64), (192, 256), (576, 256)):
        other = session(model, PAIRS[0])
        other.forward(ids[:at], "none")
        with pytest.raises(ArgumentError, match="pretend"):
            other.pretend(n)


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_what_is_cut_is_computed_again(
    model: _core.Model, ids: list[int], pair: tuple[str, str]
) -> None:
    want = session(model, pair).forward(ids, "all")
    other = ids[::-1]
    for n in (1, 63, 64, 65, 127, 130, 192, 260):
        s = session(model, pair)
        s.forward(ids, "none")
        s.truncate(n)
        s.forward(other[:70], "none")  # something else is written there
        s.truncate(n)
        got = s.forward(ids[n:], "all")
        assert got.tobytes() == want[n:].tobytes(), n
        assert s.n_past == len(ids)


@pytest.mark.parametrize("pair", PAIRS[:2])
def test_a_pass_that_is_given_up_changes_nothing(
    model: _core.Model, ids: list[int], pair: tuple[str, str]
) -> None:
    want = session(model, pair).forward(ids, "all")
    for n in (5, 70, 128):
        s = session(model, pair, 32)
        s.forward(ids[:n], "none")
        with pytest.raises(ArgumentError):
            s.forward([0] * 100 + [model.n_vocab], "none")
        assert s.forward(ids[n:], "all").tobytes() == want[n:].tobytes(), n


@pytest.mark.parametrize("pair", PAIRS[:3])
def test_the_engine_gives_the_bits_of_a_session(
    tiny_model: Callable[..., Path], pair: tuple[str, str]
) -> None:
    rng = random.Random(pair[0])
    path = tiny_model(tied=False, n_ctx=1024)
    model = _core.Model.load(str(path), n_threads=2)
    shared = [rng.randrange(model.n_vocab) for _ in range(300)]
    prompts = [
        shared[: rng.choice([0, 1, 63, 64, 100, 200])]
        + [rng.randrange(model.n_vocab) for _ in range(rng.choice([1, 2, 17, 64, 65, 130]))]
        for _ in range(14)
    ]
    alone = [
        _core.Session(model, 1024, type_k=pair[0], type_v=pair[1]).forward(p, "all")
        for p in prompts
    ]
    for n_batch, kv_tokens in ((512, 4096), (7, 4096), (33, 1024)):  # the last one preempts
        engine = _core.Engine(
            model, 1024, n_batch=n_batch, kv_tokens=kv_tokens, type_k=pair[0], type_v=pair[1]
        )
        for _ in range(2):  # the second time with prefixes in the cache
            ask_in_any_order(engine, prompts, alone, rng, 0.5, 80, context=n_batch)
        engine.close()


def test_a_conversation_goes_on_where_it_was(tiny_model: Callable[..., Path]) -> None:
    """The cache keeps the last page's rows of a sequence that has ended: the next turn is read from
    there.
    """
    options = {"type_k": "q4_0", "type_v": "rtq3"}
    with Runtime(tiny_model(tied=False, n_ctx=1024), n_ctx=1024, **options) as rt:  # type: ignore[arg-type]
        prompt = [random.Random(3).randrange(rt.n_vocab) for _ in range(150)]
        first = rt.generate(prompt, max_tokens=40, seed=1, ignore_eos=True)
        turn = [*prompt, *first.tokens, 3, 5]
        second = rt.generate(turn, max_tokens=40, seed=1, ignore_eos=True)
        assert second.timings.cached_tokens >= len(prompt) + 39
        # A prompt that ends in the middle of an old page reuses it up to the page's beginning.
        cut = rt.generate([*prompt[:100], 9], max_tokens=5, seed=1, ignore_eos=True)
        assert cut.timings.cached_tokens == 64
        rt.engine.clear_cache()
        assert rt.generate(turn, max_tokens=40, seed=1, ignore_eos=True).tokens == second.tokens
        rt.engine.clear_cache()
        again = rt.generate([*prompt[:100], 9], max_tokens=5, seed=1, ignore_eos=True)
        assert again.tokens == cut.tokens


@pytest.mark.parametrize("name", TINY)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(name, tmp_path / "hf")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "out.gguf")
    path = str(tmp_path / "out.gguf")
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 200).tolist()
    loaded = _core.Model.load(path, n_threads=2)
    n_ctx = min(200, loaded.n_ctx_train)
    ids = ids[:n_ctx]

    def logits(model: _core.Model, pair: tuple[str, str], chunk: int) -> np.ndarray:
        return _core.Session(model, n_ctx, type_k=pair[0], type_v=pair[1], n_batch=chunk).forward(
            ids, "all"
        )

    try:
        want = logits(loaded, ("rtq8", "rtq8"), 512)
    except UnsupportedModelError as error:
        assert "multiple of 16" in str(error)
        return
    plain = logits(loaded, ("f16", "f16"), 512)
    # The median is compared: where experts are chosen, a small difference may choose others.
    assert np.median(np.abs(want - plain)[64:]) < 0.05 * plain.std()
    assert want[:64].tobytes() == plain[:64].tobytes()
    assert logits(loaded, ("rtq8", "rtq8"), 7).tobytes() == want.tobytes()
    low = logits(loaded, ("rtq4", "rtq3"), 65)
    cut = _core.Session(loaded, n_ctx, type_k="rtq4", type_v="rtq3")
    cut.forward(ids, "none")
    for n in (130, 127, 65, 64, 63):
        if n < n_ctx:
            cut.truncate(n)
            assert cut.forward(ids[n:], "all").tobytes() == low[n:].tobytes(), n
    assert logits(_core.Model.load(path, cpu_tier="scalar"), ("rtq4", "rtq3"), 130).tobytes() == low.tobytes()  # fmt: skip
