"""The contracts of the CPU on the emulated CUDA backend: no plan of the engine changes a bit, and the device draws the host's tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_plans import ask_in_any_order, prompts_of
from hrun import Runtime, _core

pytestmark = pytest.mark.usefixtures("emulated_cuda")
N_CTX = 192


@pytest.fixture(scope="module")
def path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=N_CTX, n_layers=1, format="rtq3", n_embd=256, n_ff=256)


@pytest.fixture(scope="module")
def rt(path: Path) -> Iterator[Runtime]:
    with Runtime(path, n_ctx=N_CTX, n_batch=48, device="cuda") as runtime:
        yield runtime


def short_prompts(rng: random.Random, n: int, n_vocab: int) -> list[list[int]]:
    return prompts_of(rng, n, n_vocab, 130, shared=(0, 1, 63, 64, 70), own=(1, 2, 16, 17, 40))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_logits_of_any_plan_equal_those_alone(path: Path, seed: int) -> None:
    """Batches of prompts and steps, chunks, prefix hits, copies of pages, preemption."""
    rng = random.Random(seed)
    model = _core.Model.load(str(path), device="cuda")
    prompts = short_prompts(rng, 5, model.n_vocab)
    alone = [_core.Session(model, N_CTX, n_batch=256).forward(p, "all") for p in prompts]
    for n_batch, kv_tokens in ((256, 2048), (17, 2048), (33, N_CTX)):  # the last one preempts
        engine = _core.Engine(model, N_CTX, n_batch=n_batch, kv_tokens=kv_tokens)
        ask_in_any_order(engine, prompts, alone, rng, 0.4, 6, whole=2, context=n_batch)
        engine.close()


@pytest.mark.parametrize("n", [2, 9])
def test_texts_of_a_list_are_those_of_each_alone(rt: Runtime, n: int) -> None:
    prompts = short_prompts(random.Random(n), n, rt.n_vocab)
    options = {"max_tokens": 6, "seed": n, "repeat_penalty": 1.2, "ignore_eos": True}
    together = rt.generate(prompts, **options)
    rt.engine.clear_cache()
    assert [g.tokens for g in together] == [rt.generate(p, **options).tokens for p in prompts]
    assert rt.engine.stats()["n_pages_used"] == 0


def test_a_cached_prefix_is_counted_and_changes_nothing(rt: Runtime) -> None:
    prompt = short_prompts(random.Random(5), 1, rt.n_vocab)[0] + [7] * 60
    rt.engine.clear_cache()
    first = rt.generate(prompt, max_tokens=5, seed=1, ignore_eos=True, logprobs=3)
    again = rt.generate(prompt, max_tokens=5, seed=1, ignore_eos=True, logprobs=3)
    assert first.timings.cached_tokens == 0
    assert again.timings.cached_tokens == len(prompt) - 1  # exact to the token
    assert (first.tokens, first.logprobs) == (again.tokens, again.logprobs)


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 47])
def test_a_prompt_can_be_cut_anywhere(path: Path, before: int) -> None:
    """The cuts are around the rows where a kernel for few takes over from one for many: 8 and 16 of
    products, 16 of attention.
    """
    model = _core.Model.load(str(path), device="cuda")
    rng = random.Random(before)
    prefix, ids = ([rng.randrange(model.n_vocab) for _ in range(n)] for n in (before, 36))

    def cut(first: int) -> np.ndarray:
        session = _core.Session(model, 128, n_batch=128)
        if prefix:
            session.forward(prefix, "none")
        return np.concatenate([session.forward(part, "all") for part in (ids[:first], ids[first:])])

    expected = _core.Session(model, 128, n_batch=128).forward(prefix + ids, "all")[before:]
    for first in (1, 7, 8, 9, 15, 16, 17, 18, 19, 20, 28, 32, 33, 35):
        assert cut(first).tobytes() == expected.tobytes(), first


def values_of(row: _core.SamplerParameter) -> list[float]:
    """Returns some values of a parameter's range and its ends, but never the default."""
    low, high = max(row.min, -1e4), min(row.max, 1e4)
    some = [low, high, (low + high) / 2, row.default + (1 if row.type == "int" else 0.4)]
    some += [0.3, 0.7, 1.5, 3.0, 12.0]
    if row.type == "int":
        some = [round(v) for v in some]
    return sorted({v for v in some if row.min <= v <= row.max and v != row.default})


@pytest.mark.parametrize("row", _core.samplers(), ids=lambda row: row.name)
def test_every_sampling_parameter_gives_the_hosts_tokens(row: _core.SamplerParameter, path: Path) -> None:  # fmt: skip
    """The device may draw or leave the draw to the host: the tokens, and the state from which the
    next draw starts, are the host's.
    """
    model = _core.Model.load(str(path), device="cuda")
    drawn, read = _core.Session(model, 256), _core.Session(model, 256)
    others = {"temperature": 1.3, "top_k": 0} if row.name not in ("temperature", "top_k") else {}
    if row.name == "repeat_last_n":
        others |= {"repeat_penalty": 1.5, "presence_penalty": 0.4}
    ids = [5, 5, 9, 3, 5]
    for value in values_of(row):
        options = {**others, row.name: value}
        device, host = (_core.Sampler(seed=11, **options) for _ in range(2))
        drawn.truncate(0), read.truncate(0)
        a, b = list(ids), list(ids)
        for _ in range(4):
            a = [drawn.next(a, device)]
            b = [host.sample_logits(read.forward(b, "last")[0])]
            assert a == b, options


def test_a_sampler_that_the_device_does_not_know_is_left_to_the_host(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Either the kernels of the draw ran, or the logits were read; which of the two is not left to chance."""
    log = tmp_path / "launches"
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    session = _core.Session(_core.Model.load(str(path), device="cuda"), 64)

    def draws_on_device(**options: float) -> bool:
        session.truncate(0)
        log.write_text("")
        session.next([1, 2, 3], _core.Sampler(seed=1, **options))
        return "sampling" in log.read_text()

    on_device = {
        row.name: [draws_on_device(**{row.name: v}) for v in values_of(row)]
        for row in _core.samplers()
    }
    known = ("repeat_penalty", "frequency_penalty", "presence_penalty", "top_k", "top_p", "min_p", "temperature")  # fmt: skip
    assert all(all(on_device[name]) for name in known)
