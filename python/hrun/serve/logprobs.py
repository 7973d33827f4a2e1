"""Log-probabilities in the two shapes that OpenAI has for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hrun.generation import TokenLogprob
from hrun.tokenizer import Tokenizer

VERY_UNLIKELY = -9999.0


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """The token's text; of bytes that are no whole characters ``bytes:\\xe2\\x80``, so that no two are alike."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in data)


def finite(logprob: float) -> float:
    """JSON knows no infinity."""
    return logprob if math.isfinite(logprob) else VERY_UNLIKELY


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_name(tokenizer, token),
            "bytes": list(tokenizer.token_bytes(token)),
            "logprob": finite(logprob),
        }

    content = [
        entry(e.token, e.logprob) | {"top_logprobs": [entry(t, p) for t, p in e.top]}
        for e in entries
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """``choices[].logprobs`` of completions, in pieces whose offsets go on."""

    def __init__(self, tokenizer: Tokenizer, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids
        self._offset = 0

    def piece(
        self, entries: Sequence[TokenLogprob], first: int | None = None, n_top: int = 0
    ) -> dict[str, Any]:
        """The next tokens.  ``first``: a token before all others, of which nothing is known."""
        tokens: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []

        def add(token: int) -> None:
            tokens.append(self._name(token))
            offsets.append(self._offset)
            self._offset += len(self._tokenizer.token_bytes(token).decode("utf-8", "replace"))

        if first is not None:
            add(first)
            logprobs.append(None)
            tops.append(None)
        for entry in entries:
            add(entry.token)
            logprobs.append(finite(entry.logprob))
            top: dict[str, float] = {}
            for token, logprob in [*entry.top, (entry.token, entry.logprob)]:
                top.setdefault(self._name(token), finite(logprob))  # the likelier of equal texts
            tops.append(top if n_top else {})
        return {
            "text_offset": offsets,
            "token_logprobs": logprobs,
            "tokens": tokens,
            "top_logprobs": tops if n_top else None,
        }

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._as_ids else token_name(self._tokenizer, token)
