"""Sequences outlive the replicas that compute them; without Ray, by replicas that die on command."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import hrun
from hrun.serve.cluster.model import RemoteModel
from hrun.serve.cluster.prefixes import PrefixMap
from hrun.serve.cluster.remote import Lost, RemoteEngines
from hrun.serve.cluster.replica import Batch, Replica
from hrun.serve.flight import Ask
from live import Live, text_of, until

CHAT = "/v1/chat/completions"
N_CTX = 512


class Mortal:
    """Two replicas in this process; ``dies(n)`` says whether the n-th message ends the one that sends it."""

    n_replicas = 2

    def __init__(self, path: Path) -> None:
        settings = {"n_ctx": N_CTX, "kv_tokens": 4 * N_CTX, "n_threads": 1}
        self.replicas = [Replica(str(path), settings, 60, name) for name in "ab"]
        self.dies: Callable[[int], bool] = lambda n: False
        self.n = 0
        self.asked: list[Ask] = []

    async def generate(self, ask: Ask, keys: Sequence[bytes]) -> AsyncIterator[Batch]:
        self.asked.append(ask)
        replica = self.replicas[len(self.asked) % 2]
        async with aclosing(replica.generate(ask, keys)) as steps:  # type: ignore[type-var]
            async for batch in steps:
                self.n += 1
                if self.dies(self.n):
                    raise Lost
                yield batch

    async def call(self, method: str, *args: Any, keys: Sequence[bytes]) -> Any:
        self.n += 1
        if self.dies(self.n):
            raise Lost
        return await getattr(self.replicas[self.n % 2], method)(*args, keys=keys)


@pytest.fixture(scope="module")
def mortal(serve_path: Path) -> Iterator[Mortal]:
    made = Mortal(serve_path)
    yield made
    for replica in made.replicas:
        replica._runtime.close()


@pytest.fixture(scope="module")
def server(serve_path: Path, mortal: Mortal) -> Iterator[Live]:
    facts = asyncio.run(mortal.replicas[0].facts())
    model = RemoteModel(serve_path, facts)
    with Live(
        model, engines=RemoteEngines(mortal, model, facts), embeddings_pooling="last"
    ) as live:
        yield live


def body(seed: int) -> dict[str, Any]:
    words = " ".join(random.Random(seed).choices(["the", "sea", "and", "land"], k=seed % 30 + 1))
    messages = [{"role": "user", "content": words}]
    return {"messages": messages, "seed": seed, "max_tokens": 40, "temperature": 1.2, "ignore_eos": True}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
def test_whatever_dies_the_text_is_the_same(live: Live, server: Live, mortal: Mortal, stream: bool) -> None:  # fmt: skip
    rng = random.Random(3)
    mortal.dies = lambda n: rng.random() < 0.4
    n_moved = server.service.engines.n_moved
    for seed in range(8):
        one = live.post(CHAT, body(seed) | {"logprobs": True}).ok()["choices"][0]
        if stream:
            events = server.events(CHAT, body(seed) | {"stream": True, "logprobs": True})
            assert text_of(events) == one["message"]["content"] and events[-1] == "[DONE]"
            found = [
                entry
                for event in events[:-1]
                for entry in (event["choices"][0]["logprobs"] or {}).get("content", ())
            ]
            assert found == one["logprobs"]["content"]
        else:
            other = server.post(CHAT, body(seed) | {"logprobs": True}).ok()["choices"][0]
            assert other == one
    assert server.service.engines.n_moved > n_moved + 4
    server_idle(server, mortal)


def test_a_bound_text_goes_on_within_its_grammar(live: Live, server: Live, mortal: Mortal) -> None:
    pytest.importorskip("llguidance", reason="needs the extra hrun[serve]")
    asked = body(5) | {"structured_outputs": {"regex": "([a-c]{3} ){9}"}, "ignore_eos": False, "max_tokens": 100}  # fmt: skip
    one = live.post(CHAT, asked).ok()["choices"][0]
    rng = random.Random(1)
    mortal.dies = lambda n: rng.random() < 0.5
    assert server.post(CHAT, asked).ok()["choices"][0] == one
    assert one["finish_reason"] == "stop" and len(one["message"]["content"]) == 36


def test_it_dies_between_the_last_token_and_the_word_of_it(server: Live, mortal: Mortal) -> None:
    asked = body(1) | {"max_tokens": 1}
    mortal.dies = lambda n: False
    one = server.post(CHAT, asked).ok()["choices"][0]
    said: list[Batch] = []
    real = Replica.generate

    async def silent(self: Replica, ask: Ask, keys: Sequence[bytes] = ()) -> AsyncIterator[Batch]:
        async for batch in real(self, ask, keys):
            said.append(batch)
            yield Batch(batch.replica, batch.fingerprint, batch.tokens)
        raise Lost

    Replica.generate = silent  # type: ignore[method-assign]
    try:
        n_asked = len(mortal.asked)
        assert server.post(CHAT, asked).ok()["choices"][0] == one
        assert len(mortal.asked) == n_asked + 1 and said
    finally:
        Replica.generate = real  # type: ignore[method-assign]


def test_none_left(server: Live, mortal: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrun.serve.cluster.remote._BACKOFF_SECONDS", 0.001)
    mortal.dies = lambda n: True
    server.post(CHAT, body(1)).refused(503, "unavailable")
    events = server.events(CHAT, body(1) | {"stream": True})
    assert events[-2]["error"]["code"] == "unavailable" and events[-1] == "[DONE]"
    mortal.dies = lambda n: False
    server.post(CHAT, body(1)).ok()


def test_a_replica_that_computes_otherwise_is_refused(server: Live, mortal: Mortal) -> None:
    mortal.dies = lambda n: False
    for replica in mortal.replicas:
        replica._engine.fingerprint += "x"
    try:
        server.post(CHAT, body(2)).refused(503, "replicas_differ")
    finally:
        for replica in mortal.replicas:
            replica._engine.fingerprint = replica._engine.fingerprint[:-1]


def test_scores_and_embeddings_are_the_engines(live: Live, server: Live, mortal: Mortal) -> None:
    mortal.dies = lambda n: n % 2 == 0
    asked = {"prompt": [[5, 6, 7] * 9, [8, 9]], "max_tokens": 0, "echo": True, "logprobs": 3}
    one = live.post("/v1/completions", asked).ok()["choices"]
    assert server.post("/v1/completions", asked).ok()["choices"] == one
    asked = {"input": ["the sea", "and the land"]}
    one = live.post("/v1/embeddings", asked).ok()["data"]
    assert server.post("/v1/embeddings", asked).ok()["data"] == one


def test_the_front_says_what_the_replicas_do(server: Live, mortal: Mortal) -> None:
    mortal.dies = lambda n: False
    for seed in range(4):
        server.post(CHAT, body(seed)).ok()
    assert server.get("/props").ok()["n_replicas"] == 2
    assert server.metric("hrun:tokens_drawn_total") >= 4 * 40
    assert server.service.admission.n_parallel % 2 == 0
    assert server.get("/v1/models").ok()["data"][0]["meta"]["n_vocab"] == server.runtime.n_vocab
    server_idle(server, mortal)


def server_idle(server: Live, mortal: Mortal) -> None:
    until(lambda: not server.service.flights and server.service.admission.n_requests == 0)
    engines = [replica._runtime.engine for replica in mortal.replicas]
    until(lambda: all(engine.stats()["n_running"] == 0 for engine in engines), "idle replicas")


# ---- where prompts go


def test_prompts_go_where_their_beginning_is() -> None:
    hasher = hrun._core.PageHasher()
    known: PrefixMap[str] = PrefixMap(imbalance=4)
    one, two = (hasher.chain([k] * 200) for k in (1, 2))
    loads = {"a": 0, "b": 1}
    assert known.ranked(one, loads) == ["a", "b"]  # nothing is known: to the least loaded
    known.sent(one, "b")
    assert known.ranked(one, loads) == ["b", "a"] and known.ranked(two, loads) == ["a", "b"]
    longer = hasher.chain([1] * 128 + [3] * 64)
    assert known.ranked(longer, loads)[0] == "b"  # two pages of three
    assert known.ranked(one, {"a": 0, "b": 4})[0] == "b"
    assert known.ranked(one, {"a": 0, "b": 5})[0] == "a"  # it has too much to do
    assert known.ranked(one, {"a": 0}) == ["a"]
    known.forget("b")
    assert known.ranked(one, loads)[0] == "a"


def test_what_is_known_of_prompts_is_bounded() -> None:
    known: PrefixMap[int] = PrefixMap(capacity=10)
    for k in range(100):
        known.sent([bytes([k])], k)
    loads = dict.fromkeys(range(100), 0)
    assert known.ranked([bytes([99])], loads)[0] == 99
    assert known.ranked([bytes([5])], loads)[0] == 0


def test_flags_of_replicas() -> None:
    from hrun.serve.cli import make_parser

    parser = make_parser()
    assert parser.parse_args(["--ray-replicas", "2:8"]).ray_replicas == (2, 8)
    assert parser.parse_args(["--ray-replicas", "3"]).ray_replicas == (3, 3)
    for wrong in ("0", "3:2", "1:2:3", "x"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--ray-replicas", wrong])
