"""Models with recurrent layers: no cut, mix, restored state or fork of a sequence changes a bit of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime, _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_transformers import N_VOCAB, write_checkpoint

pytestmark = pytest.mark.slow

TIERS = [t.name for t in _core.cpu_tiers() if t.available]
N_CTX = 1600
NAMES = ("qwen35", "qwen3next", "lfm2", "nemotron h", "falcon h1", "mamba", "rwkv 7")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("recurrent")

    def make(name: str, format_name: str = "f32") -> Path:
        out = folder / f"{name}-{format_name}.gguf"
        if not out.exists():
            checkpoint = folder / name
            if not checkpoint.exists():
                write_checkpoint(name, checkpoint, max_position_embeddings=N_CTX)
            write_plan(make_plan(open_source(checkpoint), PlanOptions(format_name)), out)
        return out

    return make


def ids_of(n: int, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(0, N_VOCAB, n).tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_cut_changes_a_bit(
    made: Callable[..., Path], name: str, device: str, emulated_cuda: None
) -> None:
    """Prompts shorter than the convolution's taps included.  On CUDA attention has another order of sums for the queries
    of longer prompts, with recurrent layers or without."""
    model = _core.Model.load(str(made(name)), device=device)
    ids = ids_of(70 if device == "cpu" else 16)
    whole = _core.Session(model, 128).forward(ids, "all")
    rng = random.Random(name)
    for pieces in ([1] * 9, [2, 1], [3, 5, 1, 1], [rng.randrange(1, 9) for _ in range(5)]):
        session, at = _core.Session(model, 128), 0
        for n in [*pieces, len(ids) - sum(pieces)]:
            if n > 0 and at < len(ids):
                got = session.forward(ids[at : at + n], "all")
                assert got.tobytes() == whole[at : at + n].tobytes(), (pieces, at)
                at += n


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("format_name", ["q8_0", "rtq3"])
def test_tiers_and_threads_agree(made: Callable[..., Path], tier: str, format_name: str) -> None:
    path = str(made("qwen35", format_name))
    ids = ids_of(40)
    want = _core.Session(_core.Model.load(path, cpu_tier=TIERS[-1], n_threads=1), 64).forward(
        ids, "all"
    )
    model = _core.Model.load(path, cpu_tier=tier, n_threads=2)
    assert _core.Session(model, 64).forward(ids, "all").tobytes() == want.tobytes()


def test_a_session_can_be_cut_anywhere(made: Callable[..., Path]) -> None:
    model = _core.Model.load(str(made("qwen35")))
    ids, more = ids_of(1100), ids_of(30, seed=9)
    session = _core.Session(model, N_CTX)
    for i in range(0, 1000, 250):  # four turns
        session.forward(ids[i : i + 250], "none")
    for token in ids[1000:]:
        session.forward([token], "none")
    for n in (1100, 1099, 1025, 1024, 1023, 800, 750, 3, 1, 0):
        start = session.truncate(n)
        assert 0 <= start <= n and session.n_past == n
        if n in (1025, 1024, 800, 750, 0):  # one lies at every end of a turn and at 512, 1024, ...
            assert n - start <= 50
        got = session.forward(more, "all")
        fresh = _core.Session(model, N_CTX)
        fresh.forward(ids[:n], "none")
        assert got.tobytes() == fresh.forward(more, "all").tobytes(), n
        session.truncate(n)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_last_tokens_are_cut_exactly(
    made: Callable[..., Path], name: str, device: str, emulated_cuda: None
) -> None:
    """To within 16 tokens of the furthest that was computed, after prompts and after single ones, again and again: nothing is
    computed twice."""
    model = _core.Model.load(str(made(name)), device=device)
    n_rounds, longest = (60, 90) if device == "cpu" else (6, 12)
    rng = random.Random(name)
    session, ids, furthest = _core.Session(model, N_CTX, n_batch=50), [], 0
    for _ in range(n_rounds):
        for _ in range(rng.randrange(1, 4)):
            n = rng.choice([1, 1, 1, 2, 5, 17, 33, longest])
            more = ids_of(n, seed=rng.randrange(1000))
            for piece in [[t] for t in more] if rng.random() < 0.4 else [more]:
                session.forward(piece, "none")
            ids += more
            furthest = max(furthest, len(ids))
        if len(ids) > N_CTX - 300:
            session.truncate(0)
            ids, furthest = [], 0
            continue
        n = rng.randrange(max(0, furthest - 16), len(ids) + 1)
        assert session.truncate(n) == n
        ids = ids[:n]
        if rng.random() < 0.3:
            more = ids_of(3, seed=rng.randrange(1000))
            fresh = _core.Session(model, N_CTX)
            fresh.forward([*ids, *more][:-1], "none")
            want = fresh.forward(more[-1:])
            session.forward(more[:-1], "none")
            assert session.forward(more[-1:]).tobytes() == want.tobytes(), n
            ids += more
            furthest = max(furthest, len(ids))


def test_a_cancelled_pass_leaves_the_session_where_it_was(made: Callable[..., Path]) -> None:
    model = _core.Model.load(str(made("qwen35")))
    ids = ids_of(1500)
    want = _core.Session(model, N_CTX).forward(ids[:400], "all")[300:]
    session = _core.Session(model, N_CTX)
    session.forward(ids[:300], "none")
    outcomes = []

    def run() -> None:
        try:
            session.forward(ids[300:], "none")
            outcomes.append("done")
        except _core.Cancelled:
            outcomes.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():  # until it has begun, and beyond
        session.cancel()
    thread.join()
    assert session.n_past == (1500 if outcomes == ["done"] else 300)
    session.cancel()  # counts for the next call, as one may from above
    with pytest.raises(_core.Cancelled):
        session.forward(ids[:5], "none")
    session.truncate(300)
    assert session.forward(ids[300:400], "all").tobytes() == want.tobytes()


@pytest.fixture(scope="module")
def rt(made: Callable[..., Path]) -> Iterator[Runtime]:
    with Runtime(made("qwen35"), n_ctx=N_CTX, n_batch=64) as runtime:
        yield runtime


@pytest.mark.parametrize("n_batch,kv_tokens", [(512, 8192), (7, 8192), (33, N_CTX)])
def test_any_plan_gives_the_logits_of_each_alone(
    made: Callable[..., Path], n_batch: int, kv_tokens: int
) -> None:
    rng = random.Random(n_batch)
    model = _core.Model.load(str(made("qwen35")), n_threads=2)
    shared = ids_of(640)
    prompts = [
        shared[: rng.choice([0, 3, 64, 512, 600])] + ids_of(rng.choice([1, 2, 17, 130]), seed)
        for seed in range(10)
    ]
    alone = [_core.Session(model, N_CTX).forward(p, "all") for p in prompts]
    engine = _core.Engine(model, N_CTX, n_batch=n_batch, kv_tokens=kv_tokens)
    asked = []
    for i in rng.sample(range(len(prompts)), len(prompts)):
        first = rng.choice([0, len(prompts[i]) // 2, len(prompts[i]) - 1])
        asked.append((i, first, engine.submit(prompts[i], kind="logits", first_row=first)))
        if rng.random() < 0.4:
            engine.submit(prompts[i], max_tokens=20, sampling={"temperature": 0.0})
    for i, first, handle in asked:
        assert engine.take(handle, all=True)[1] == "stop"
        got = handle.values.reshape(-1, N_VOCAB)
        assert got.tobytes() == alone[i][first:].tobytes(), (i, first)
    engine.close()


def test_a_prefix_is_reused_from_a_checkpoint(rt: Runtime) -> None:
    prompt = ids_of(1300)
    rt.engine.clear_cache()
    first = rt.generate(prompt, max_tokens=8, seed=1, ignore_eos=True)
    assert first.timings.cached_tokens == 0
    again = rt.generate(prompt, max_tokens=8, seed=1, ignore_eos=True)
    assert again.timings.cached_tokens >= 1300 - 64  # the start of the prompt's last page
    assert again.tokens == first.tokens
    turn = [*prompt, *first.tokens, *ids_of(20, seed=8)]
    went_on = rt.generate(turn, max_tokens=8, seed=1, ignore_eos=True)
    assert went_on.timings.cached_tokens >= 1300  # where the first one ended
    branch = [*prompt[:1100], *ids_of(100, seed=7)]
    branched = rt.generate(branch, max_tokens=8, seed=1, ignore_eos=True)
    assert 1024 <= branched.timings.cached_tokens <= 1100  # the grid, or what looks like a turn
    rt.engine.clear_cache()
    for asked, got in ((turn, went_on), (branch, branched)):
        assert rt.generate(asked, max_tokens=8, seed=1, ignore_eos=True).tokens == got.tokens
        rt.engine.clear_cache()


def test_texts_of_a_list_are_those_of_each_alone(rt: Runtime) -> None:
    prompts = [ids_of(n, n) for n in (1, 2, 3, 5, 64, 65, 200, 513)]
    options = {"max_tokens": 24, "seed": 4, "ignore_eos": True}
    together = rt.generate(prompts, **options)
    rt.engine.clear_cache()
    assert [g.tokens for g in together] == [rt.generate(p, **options).tokens for p in prompts]
