"""Coded caches on the emulated CUDA backend: the contracts that the CPU has for them, and which kernels run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine_plans import ask_in_any_order
from hrun import Runtime, _core
from hrun.errors import UnsupportedModelError

pytestmark = pytest.mark.usefixtures("emulated_cuda")
N_CTX = 256
PAIRS = [("rtq4", "rtq3"), ("rtq8", "rtq8"), ("rtq3", "f16"), ("f32", "rtq2"), ("rtq5", "rtq4")]
CODED = ("the beginning of coded keys", "keys and values become codes")


@pytest.fixture(scope="module")
def path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=N_CTX, n_layers=1, format="rtq3", n_embd=256, n_ff=256)


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return np.random.default_rng(1).integers(0, 90, 150).tolist()


def session(path: Path, pair: tuple[str, str], n_batch: int = 256) -> _core.Session:
    model = _core.Model.load(str(path), device="cuda")
    return _core.Session(model, N_CTX, type_k=pair[0], type_v=pair[1], n_batch=n_batch)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_logits_do_not_depend_on_the_passes(
    path: Path, ids: list[int], pair: tuple[str, str]
) -> None:
    want = session(path, pair).forward(ids, "all")
    for n_batch in (7, 16, 64, 65):
        assert session(path, pair, n_batch).forward(ids, "all").tobytes() == want.tobytes(), n_batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "graphs"), [(PAIRS[0], "0"), (PAIRS[1], "0"), *((pair, "1") for pair in PAIRS)]
)
def test_token_by_token_from_graphs_or_without(
    path: Path,
    ids: list[int],
    pair: tuple[str, str],
    graphs: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A graph replays the launches that are made without one, so two pairs without one will do."""
    want = session(path, pair).forward(ids, "all")
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", graphs)
    assert session(path, pair, 1).forward(ids, "all").tobytes() == want.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_what_is_cut_is_computed_again(path: Path, ids: list[int], pair: tuple[str, str]) -> None:
    want = session(path, pair).forward(ids, "all")
    for n in (1, 63, 64, 65, 100, 127, 130):
        s = session(path, pair)
        s.forward(ids, "none")
        s.truncate(n)
        s.forward(ids[70::-1], "none")  # something else is written there
        s.truncate(n)
        assert s.forward(ids[n:], "all").tobytes() == want[n:].tobytes(), n


@pytest.mark.parametrize("pair", PAIRS)
def test_logits_are_near_those_of_the_cpu(
    path: Path, ids: list[int], pair: tuple[str, str]
) -> None:
    got = session(path, pair).forward(ids, "all")
    host = _core.Session(
        _core.Model.load(str(path), device="cpu"), N_CTX, type_k=pair[0], type_v=pair[1]
    )
    want = host.forward(ids, "all")
    error = np.abs(got - want).max(axis=1) / np.abs(want).max()
    # A rounding that fell to the other side, of an activation or a code.
    assert np.median(error) < 1e-3 and error.max() < 3e-2, (np.median(error), error.max())


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_the_engine_gives_the_bits_of_a_session(path: Path, pair: tuple[str, str]) -> None:
    """The test covers batches, chunks, shared beginnings, copies of pages and preemption."""
    rng = random.Random(pair[0])
    model = _core.Model.load(str(path), device="cuda")
    shared = [rng.randrange(model.n_vocab) for _ in range(130)]
    prompts = [
        shared[:n] + [rng.randrange(model.n_vocab) for _ in range(rng.choice([1, 2, 17, 64]))]
        for n in (0, 63, 64, 100, 130)
    ]
    alone = [session(path, pair).forward(p, "all") for p in prompts]
    for n_batch, kv_tokens in ((256, 2048), (33, N_CTX)):  # the last one preempts
        engine = _core.Engine(
            model, N_CTX, n_batch=n_batch, kv_tokens=kv_tokens, type_k=pair[0], type_v=pair[1]
        )
        for _ in range(2):  # the second time with prefixes in the cache
            ask_in_any_order(engine, prompts, alone, rng, 0.4, 8, context=n_batch)
        engine.close()


def test_a_conversation_goes_on_where_it_was(path: Path) -> None:
    with Runtime(path, n_ctx=N_CTX, device="cuda", type_k="q4_0", type_v="rtq3") as rt:
        prompt = [random.Random(3).randrange(rt.n_vocab) for _ in range(90)]
        first = rt.generate(prompt, max_tokens=10, seed=1, ignore_eos=True)
        turn = [*prompt, *first.tokens, 3, 5]
        second = rt.generate(turn, max_tokens=6, seed=1, ignore_eos=True)
        assert second.timings.cached_tokens >= len(prompt) + 9
        rt.engine.clear_cache()
        assert rt.generate(turn, max_tokens=6, seed=1, ignore_eos=True).tokens == second.tokens


def test_which_kernels_run(path: Path, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Codes are made where a page is full; a token in between takes the launches that it takes with f16."""
    log = tmp_path / "log"
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", "0")
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))

    def launches(pair: tuple[str, str], before: int) -> Counter[str]:
        s = session(path, pair)
        s.forward(ids[:before], "none")
        log.write_text("")
        s.forward([3], "last")
        return Counter(line.split(" ", 1)[1] for line in log.read_text().splitlines())

    plain = launches(("f16", "f16"), 70)
    for before, more in ((10, CODED[:1]), (63, CODED), (70, ()), (127, CODED[1:])):
        coded = launches(("rtq4", "rtq3"), before)
        assert coded["attention over codes"] == 1 and coded["attention"] == 0
        assert [n for n in CODED if coded[n]] == list(more), before
        assert coded.total() == plain.total() + len(more), (before, coded - plain)


def test_a_pass_that_codes_nothing_comes_from_a_graph(path: Path, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    log = tmp_path / "log"
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    s = session(path, PAIRS[0])
    s.forward(ids[:70], "none")
    for i in range(4):
        s.forward([i], "last")
    log.write_text("")
    want = s.forward([5], "last")
    replayed = log.read_text()
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", "0")
    other = session(path, PAIRS[0])
    assert other.forward([*ids[:70], 0, 1, 2, 3, 5], "last").tobytes() == want.tobytes()
    assert [line.split(" ", 1)[1] for line in replayed.splitlines()] == ["graph"]


def test_heads_that_have_no_codes_are_an_error_at_load(tiny_model: Callable[..., Path]) -> None:
    odd = tiny_model(n_embd=96, n_heads=4, n_kv_heads=2, n_ff=64, n_layers=1, format="f32")
    with pytest.raises(UnsupportedModelError, match="multiple of 16"):
        session(odd, ("rtq4", "rtq3"))


# Windows, sinks, latent attention, soft caps, several layers that share keys.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt-oss", "deepseek3", "qwen3", "qwen35"])
def test_architectures(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_transformers import N_VOCAB, TINY, write_checkpoint

    assert name in TINY
    write_checkpoint(name, tmp_path / "hf")
    path = tmp_path / "out.gguf"
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), path)
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 150).tolist()

    def logits(device: str, chunk: int) -> np.ndarray:
        model = _core.Model.load(str(path), device=device)
        n_ctx = min(150, model.n_ctx_train)
        s = _core.Session(model, n_ctx, type_k="rtq5", type_v="rtq4", n_batch=chunk)
        return s.forward(ids[:n_ctx], "all")

    try:
        want = logits("cpu", 256)
    except UnsupportedModelError:
        with pytest.raises(UnsupportedModelError, match="multiple of 16"):
            logits("cuda", 256)
        return
    got = logits("cuda", 256)
    assert np.median(np.abs(got - want)) < 2e-3 * want.std()
    assert logits("cuda", 37).tobytes() == got.tobytes()
