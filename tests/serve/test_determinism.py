"""A seed and an equal system_fingerprint promise the same text, whatever else the server does."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrun import Runtime
from live import Live, text_of

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


def ask(i: int) -> dict[str, Any]:
    rng = random.Random(i)
    words = " ".join(rng.choice(["the", "sea", "and", "land"]) for _ in range(rng.randrange(1, 40)))
    fields = {"temperature": rng.choice([0, 0.8, 1.5]), "top_p": rng.choice([0.5, 0.95, 1.0])}
    messages = [{"role": "user", "content": words}]
    return {"messages": messages, "seed": i, "max_tokens": 24, "ignore_eos": True} | fields


def test_the_text_is_the_same_under_any_load(serve_path: Path) -> None:
    """A request runs alone; then 64 run at once, in chunks of prompts, with a cache so small that
    sequences are preempted.
    """
    n = 64
    with Live(Runtime(serve_path, n_ctx=512, kv_tokens=4096, n_threads=2)) as live:
        alone = [live.post(CHAT, ask(i)).ok() for i in range(n)]
    fingerprint = alone[0]["system_fingerprint"]
    runtime = Runtime(serve_path, n_ctx=512, kv_tokens=512, n_batch=24, n_threads=1)
    got: dict[int, str] = {}
    with Live(runtime, n_parallel=16) as live:
        assert live.get("/version").ok()["system_fingerprint"] == fingerprint

        def client(i: int) -> None:
            if i % 2:
                got[i] = text_of(live.events(CHAT, ask(i) | {"stream": True}))
            elif i % 3:
                got[i] = live.post(CHAT, ask(i) | {"n": 2}).ok()["choices"][0]["message"]["content"]
            else:
                got[i] = live.post(CHAT, ask(i)).ok()["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=client, args=(i,)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert live.stats["n_decode_rows"] > live.stats["n_steps"]  # they did share steps
        live.idle()
    assert [got[i] for i in range(n)] == [a["choices"][0]["message"]["content"] for a in alone]


def test_the_fingerprint_tells_models_and_settings_apart(tiny_model: Callable[..., Path]) -> None:
    seen = set()
    for seed, options in ((0, {}), (1, {}), (0, {"type_k": "f32"})):
        with Runtime(tiny_model(seed=seed), n_threads=1, **options) as runtime:
            with Live(runtime, keep=True) as live:
                seen.add(live.get("/version").ok()["system_fingerprint"])
    assert len(seen) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_the_seed_that_was_drawn_is_told(live: Live, stream: bool) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "temperature": 1.5,
    }
    if stream:
        chunks = live.events(CHAT, body | {"stream": True})
        text, seed = text_of(chunks), chunks[-2]["timings"]["seed"]
    else:
        answer = live.post(CHAT, body).ok()
        text, seed = answer["choices"][0]["message"]["content"], answer["timings"]["seed"]
    assert live.post(CHAT, body | {"seed": seed}).ok()["choices"][0]["message"]["content"] == text
