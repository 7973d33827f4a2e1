"""Many sequences at once: each gets the bits, tokens and log-probabilities that it gets alone."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import hrun
from engine_plans import ask_in_any_order, prompts_of
from hrun import ArgumentError, ContextOverflowError, Runtime, _core

TIERS = [t.name for t in _core.cpu_tiers() if t.available]
N_CTX = 1024


@pytest.fixture(scope="module")
def path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=N_CTX)


@pytest.fixture(scope="module")
def rt(path: Path) -> Iterator[Runtime]:
    with Runtime(path, n_ctx=N_CTX, n_batch=64) as runtime:
        yield runtime


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_logits_of_any_plan_equal_those_alone(path: Path, tier: str) -> None:
    rng = random.Random(tier)
    model = _core.Model.load(str(path), cpu_tier=tier, n_threads=2)
    prompts = prompts_of(rng, 12 if tier != "scalar" else 5, model.n_vocab)
    alone = [_core.Session(model, N_CTX).forward(p, "all") for p in prompts]
    for n_batch, kv_tokens in ((512, 4096), (7, 4096), (33, N_CTX)):  # the last one preempts
        engine = _core.Engine(model, N_CTX, n_batch=n_batch, kv_tokens=kv_tokens)
        ask_in_any_order(engine, prompts, alone, rng, 0.3, 20, whole=2, context=(tier, n_batch))
        engine.close()


@pytest.mark.parametrize(
    "n", [1, 2, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (33, 64))]
)
def test_texts_of_a_list_are_those_of_each_alone(rt: Runtime, n: int) -> None:
    prompts = prompts_of(random.Random(n), n, rt.n_vocab)
    options = {"max_tokens": 24, "seed": n, "repeat_penalty": 1.2, "ignore_eos": True}
    together = rt.generate(prompts, **options)
    rt.engine.clear_cache()
    assert [g.tokens for g in together] == [rt.generate(p, **options).tokens for p in prompts]
    assert rt.engine.stats()["n_pages_used"] == 0


def test_a_cached_prefix_is_counted_and_changes_nothing(rt: Runtime) -> None:
    prompt = prompts_of(random.Random(5), 1, rt.n_vocab)[0] + [7] * 150
    rt.engine.clear_cache()
    first = rt.generate(prompt, max_tokens=8, seed=1, ignore_eos=True, logprobs=3)
    again = rt.generate(prompt, max_tokens=8, seed=1, ignore_eos=True, logprobs=3)
    assert first.timings.cached_tokens == 0
    assert again.timings.cached_tokens == len(prompt) - 1  # exact to the token
    assert (first.tokens, first.logprobs) == (again.tokens, again.logprobs)
    turn = rt.generate([*prompt, *first.tokens, 3], max_tokens=1, seed=1)
    assert turn.timings.cached_tokens >= len(prompt) + 7


def test_timings_are_those_of_the_engine(rt: Runtime) -> None:
    """They do not depend on the reader: a whole generation has the timings of a stream."""
    prompt = [1, 2, 3] * 60
    for stream in (False, True):
        rt.engine.clear_cache()
        if stream:
            *_, last = rt.generate(prompt, max_tokens=60, seed=1, ignore_eos=True, stream=True)
            assert last.generation is not None
            t = last.generation.timings
        else:
            t = rt.generate(prompt, max_tokens=60, seed=1, ignore_eos=True).timings
        assert t.prompt_tokens == 180 and t.generated_tokens == 60
        assert 0 < t.prompt_seconds < 60 and 0 < t.generate_seconds < 60
        assert t.tokens_per_second < 1e6


def test_score_and_logprobs_are_those_of_the_logits(rt: Runtime) -> None:
    ids = prompts_of(random.Random(6), 1, rt.n_vocab)[0]
    rows = rt.logits(ids).astype(np.float64)
    want = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True))
    want -= rows.max(1, keepdims=True)
    scores = rt.score(ids, top_logprobs=4)
    assert [s.token for s in scores] == ids[1:]
    for row, score in zip(want, scores):
        assert score.logprob == pytest.approx(row[score.token], abs=1e-5)
        order = sorted(range(rt.n_vocab), key=lambda i: (-row[i], i))[:4]
        assert [t for t, _ in score.top] == order
    drawn = rt.generate(ids, max_tokens=5, temperature=0, ignore_eos=True, logprobs=0)
    assert drawn.logprobs is not None
    whole = rt.score(ids + drawn.tokens)[len(ids) - 1 :]
    assert [p.logprob for p in drawn.logprobs] == [s.logprob for s in whole]


def test_embeddings(rt: Runtime) -> None:
    prompts = prompts_of(random.Random(7), 6, rt.n_vocab)
    for pooling in ("last", "mean"):
        together = rt.embed(prompts, pooling=pooling)
        assert together.shape == (6, rt.model.n_embd)
        assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        rt.engine.clear_cache()
        for row, prompt in zip(together, prompts):
            assert row.tobytes() == rt.embed(prompt, pooling=pooling).tobytes()
    with pytest.raises(ArgumentError, match="pooling"):
        rt.embed("a", pooling="max")  # type: ignore[arg-type]


def test_chat_takes_a_list_of_conversations(rt: Runtime) -> None:
    turns = [[{"role": "user", "content": text}] for text in ("Hi", "A b c")]
    try:
        together = rt.chat(turns, max_tokens=4, seed=1)
    except hrun.ChatTemplateError:
        pytest.skip("the tiny model has no chat template")
    assert [g.text for g in together] == [rt.chat(t, max_tokens=4, seed=1).text for t in turns]


def test_asyncio(rt: Runtime) -> None:
    prompts = prompts_of(random.Random(8), 16, rt.n_vocab)
    options = {"max_tokens": 12, "seed": 3, "ignore_eos": True}
    want = [rt.generate(p, **options).tokens for p in prompts]

    async def main() -> None:
        got = await asyncio.gather(*(rt.agenerate(p, **options) for p in prompts))
        assert [g.tokens for g in got] == want
        # A cancelled task gives its pages back.
        task = asyncio.create_task(rt.agenerate(prompts[0], ignore_eos=True, seed=1))
        await asyncio.sleep(0)  # The task submits; the loop cannot see its end before the cancel.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        tokens = [p.token async for p in rt.astream(prompts[1], **options) if p.token is not None]
        assert tokens == want[1]

    asyncio.run(main())
    asyncio.run(main())  # another loop
    deadline = time.monotonic() + 10
    while rt.engine.stats()["n_running"] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert rt.engine.stats()["n_pages_used"] == 0


def test_what_cannot_fit_is_refused_before_any_work(path: Path) -> None:
    model = _core.Model.load(str(path))
    engine = _core.Engine(model, 128, max_running=1, max_waiting=2)
    with pytest.raises(ContextOverflowError, match="140.*128"):
        engine.submit([1] * 100, max_tokens=41)
    with pytest.raises(ArgumentError, match="vocabulary"):
        engine.submit([10**6], max_tokens=1)
    with pytest.raises(ArgumentError, match="max_tokens"):
        engine.submit([1], max_tokens=0)
    handles = []
    with pytest.raises(hrun.QueueFullError, match="2"):
        for _ in range(50):
            handles.append(engine.submit([1] * 60, max_tokens=60, end_tokens=[]))
    for handle in handles:
        engine.cancel(handle)
    for handle in handles:
        assert engine.take(handle, all=True)[1] in ("cancelled", "length")
    engine.close()
    with pytest.raises(hrun.GenerationError, match="closed"):
        engine.submit([1], max_tokens=1)
    with pytest.raises(ArgumentError, match="kv_tokens"):
        _core.Engine(model, 128, kv_tokens=100)


def test_a_sequence_rests_until_it_is_read(rt: Runtime) -> None:
    stream = rt.generate([1, 2, 3], max_tokens=500, seed=1, ignore_eos=True, stream=True)
    next(stream)
    time.sleep(0.1)
    before = rt.engine.stats()["n_generated"]
    time.sleep(0.1)
    assert rt.engine.stats()["n_generated"] == before
    assert sum(1 for p in stream if p.token is not None) == 499


@pytest.mark.slow
def test_random_requests_and_cancellations_from_many_threads(path: Path) -> None:
    """All pages are free at the end, and every finished text is the one that it has alone."""
    with Runtime(path, n_ctx=256, kv_tokens=1024, n_batch=32) as runtime:
        prompts = [p[:150] for p in prompts_of(random.Random(9), 10, runtime.n_vocab)]
        want = [runtime.generate(p, max_tokens=30, seed=2, ignore_eos=True).tokens for p in prompts]
        errors: list[str] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(12):
                i = rng.randrange(len(prompts))
                stop_after = rng.choice([0, 1, 5, 100, 100])
                tokens = []
                stream = runtime.generate(
                    prompts[i], max_tokens=30, seed=2, ignore_eos=True, stream=True
                )
                for piece in stream:
                    if piece.token is not None:
                        tokens.append(piece.token)
                    if len(tokens) >= stop_after:
                        break
                stream.close()
                if tokens != want[i][: len(tokens)]:
                    errors.append(f"{seed}: prompt {i}")

        threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not errors and not any(t.is_alive() for t in threads)
        deadline = time.monotonic() + 10
        while runtime.engine.stats()["n_running"] and time.monotonic() < deadline:
            time.sleep(0.001)
        assert runtime.engine.stats()["n_pages_used"] == 0


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 1.3},
        {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "repeat_penalty": 1.3, "repeat_last_n": 20},
        {"temperature": 1.0, "frequency_penalty": 0.7, "presence_penalty": 0.3},
    ],
)
def test_a_request_goes_on_where_another_ended(rt: Runtime, sampling: dict[str, float]) -> None:
    """The request goes on wherever the other was cut, as if the other had never ended."""
    engine, prompt, n = rt.engine, [7, 8, 9] * 21, 24

    def drawn(ids: list[int], n_drawn: int) -> list[int]:
        left = n - n_drawn
        handle = engine.submit(ids, max_tokens=left, seed=11, sampling=sampling, n_drawn=n_drawn)
        return [token for token, *_ in engine.take(handle, all=True)[0]]

    whole = drawn(prompt, 0)
    for cut in (1, 2, 7, n - 1):
        assert drawn(prompt + whole[:cut], cut) == whole[cut:]
    with pytest.raises(ArgumentError, match="n_drawn"):
        engine.submit(prompt, max_tokens=1, n_drawn=len(prompt) + 1)


def test_keys_of_pages_are_those_of_what_is_before_them() -> None:
    hasher = _core.PageHasher()
    ids = list(range(64 * 3 + 5))
    keys = hasher.chain(ids, "salt")
    assert len(keys) == 3 and len(set(keys)) == 3 and {len(key) for key in keys} == {16}
    assert hasher.chain(ids[:130], "salt") == keys[:2] and hasher.chain(ids[:63]) == []
    assert hasher.chain(ids, "salt", 1) == keys[:1]
    assert not set(hasher.chain(ids)) & set(keys)  # of another salt
    assert hasher.chain([9, *ids[1:]], "salt")[2] != keys[2]  # of another beginning
    assert _core.PageHasher().chain(ids, "salt") != keys  # of another key
