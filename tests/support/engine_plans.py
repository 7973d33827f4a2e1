"""Random plans of the engine, whose logits must be those of each prompt alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


def prompts_of(
    rng: random.Random,
    n: int,
    n_vocab: int,
    n_shared: int = 300,
    shared: Sequence[int] = (0, 1, 63, 64, 100, 200),
    own: Sequence[int] = (1, 2, 17, 64, 65, 130),
) -> list[list[int]]:
    """Returns prompts; some share beginnings, and some of these beginnings end inside a page."""
    beginning = [rng.randrange(n_vocab) for _ in range(n_shared)]
    out = []
    for _ in range(n):
        end = [rng.randrange(n_vocab) for _ in range(rng.choice(own))]
        out.append(beginning[: rng.choice(shared)] + end)
    return out


def ask_in_any_order(
    engine: Any,
    prompts: Sequence[Sequence[int]],
    alone: Sequence[Any],
    rng: random.Random,
    beside: float,
    max_tokens: int,
    whole: int = 1,
    context: object = None,
) -> None:
    """Asks for logits of all prompts at once, and asserts that their bits are those of ``alone``.

    ``beside``: the share of prompts that also generate ``max_tokens`` tokens meanwhile.  ``whole``: how
    often a prompt's first row is the first wanted, for one time its middle and one its last.
    """
    asked = []
    for i in rng.sample(range(len(prompts)), len(prompts)):
        first = rng.choice([*[0] * whole, len(prompts[i]) // 2, len(prompts[i]) - 1])
        asked.append((i, first, engine.submit(prompts[i], kind="logits", first_row=first)))
        if rng.random() < beside:
            engine.submit(prompts[i], max_tokens=max_tokens, sampling={"temperature": 0.0})
    for i, first, handle in asked:
        assert engine.take(handle, all=True)[1] == "stop"
        got = handle.values.reshape(-1, alone[i].shape[-1])
        assert got.tobytes() == alone[i][first:].tobytes(), (context, i, first)
