"""Calibration without a file: passages of many kinds, and what the model itself answers.

Half of the tokens are answers that the model draws, at temperature 1, through its own chat
template (Liu et al., LLM-QAT, 2023, calibrate on text that the model wrote); the rest are the
passages of ``texts/``.  A model without a template continues the beginnings of the passages.  The
draws have a fixed seed, so every machine calibrates on the same tokens.  Every eighth passage and
prompt is kept for the check of the finished file (``self_check.py``).
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from hrun._core import read_spec
from hrun.cache_memory import bytes_per_token
from hrun.errors import ChatTemplateError
from hrun.runtime import Runtime
from hrun.tokenizer import Tokenizer

from .moments import Report
from .text import CHUNK_TOKENS, spread_chunks

KINDS = ("prose", "dialogue", "code", "mathematics", "languages", "data")
_FOLDER = Path(__file__).parent / "texts"
_BREAK = "\n%%\n"
_HELD_OUT = 8  # one passage or prompt of so many
_BEGINNING = 24  # tokens of a passage that a model without a template continues
_BATCH = 24  # answers at a time
_CONTEXT = 1024
_CACHE_BYTES = 256 << 20
_SEED = 1


def passages(kind: str, held_out: bool) -> list[str]:
    """Returns the passages for calibration, or those that calibration never sees."""
    text = (_FOLDER / f"{kind}.txt").read_text(encoding="utf-8")
    return _share(text.rstrip("\n").split(_BREAK), held_out)


def prompts(held_out: bool) -> list[str]:
    """Questions and tasks, one turn each."""
    lines = (_FOLDER / "prompts.txt").read_text(encoding="utf-8").splitlines()
    return _share([line for line in lines if line], held_out)


def _share(items: Sequence[str], held_out: bool) -> list[str]:
    return [item for i, item in enumerate(items) if (i % _HELD_OUT == _HELD_OUT - 1) == held_out]


def questions(runtime: Runtime, held_out: bool) -> list[list[int]]:
    """Token ids of the prompts in the model's chat template, or of beginnings of passages."""
    if runtime.tokenizer.chat_template is not None:
        try:
            return [
                runtime.chat_tokens([{"role": "user", "content": text}])
                for text in prompts(held_out)
            ]
        except ChatTemplateError:  # one that needs more than a user's turn
            pass
    return [
        runtime.tokenize(passage)[:_BEGINNING]
        for kind in KINDS
        for passage in passages(kind, held_out)
    ]


def open_runtime(model: Path, n_threads: int, n_parallel: int) -> Runtime:
    """Opens a runtime with room for ``n_parallel`` answers at once, or as many as 256 MiB hold."""
    per_token = bytes_per_token(read_spec(str(model)).params, "f16", "f16")
    held = _CACHE_BYTES // max(1, per_token)
    return Runtime(
        model,
        n_ctx=_CONTEXT,
        n_threads=n_threads or None,
        kv_tokens=max(_CONTEXT, min(n_parallel * _CONTEXT, held)),
        device="cpu",
    )


def own_text(
    model: Path, wanted: int, n_threads: int = 0, report: Report | None = None
) -> list[list[int]]:
    """Questions with the model's answers, about ``wanted`` tokens; deterministic."""
    with open_runtime(model, n_threads, _BATCH) as runtime:
        asked = questions(runtime, held_out=False)
        each = min(_CONTEXT // 2, max(16, -(-wanted // len(asked))))
        asked = asked[: max(1, -(-wanted // each))]
        end = [i for i in (runtime.tokenizer.end_of_turn_id,) if i is not None]
        out: list[list[int]] = []
        for first in range(0, len(asked), _BATCH):
            if sum(map(len, out)) >= wanted:
                break
            if report is not None:
                report(first, len(asked), "calibrate: the model writes")
            batch = [ids[-(_CONTEXT - each) :] for ids in asked[first : first + _BATCH]]
            answers = runtime.generate(
                batch, max_tokens=each, seed=_SEED, temperature=1.0, top_k=200, top_p=1.0, min_p=0.0
            )
            for question, answer in zip(batch, answers):
                closed = end if answer.finish_reason == "stop" else []
                out.append([*question, *answer.tokens, *closed])
    return out


def bundled_text(tokenizer: Tokenizer, held_out: bool) -> array[int]:
    """Token ids of the passages, kind after kind."""
    out = array("i")
    for kind in KINDS:
        text = "\n\n".join(passages(kind, held_out))
        out.extend(tokenizer.encode(text, add_special=False))
    return out


class AutoText:
    """The tokens of ``--calibrate auto``; made once, at the first request."""

    def __init__(self, wanted: int, n_threads: int = 0) -> None:
        """``wanted``: about how many tokens."""
        self._wanted, self._n_threads = wanted, n_threads
        self._tokens: Sequence[int] | None = None
        self.n_own = 0

    def tokens(
        self,
        model: Callable[[], Path],
        report: Report | None = None,
        kept: Path | None = None,
        bundled_only: bool = False,
    ) -> Sequence[int]:
        """Returns the tokens, in an order in which evenly spread chunks are of all kinds.

        ``model`` gives the file that writes; ``kept``: a file where an earlier process may have left
        them, or is written.  ``bundled_only``: ``model`` need not be one that can be run.  Raises hrun.Error, OSError.
        """
        if self._tokens is None and kept is not None and kept.exists():
            self.n_own, *stored = json.loads(kept.read_text())
            self._tokens = array("i", stored)
        if self._tokens is None:
            path = model()
            tokenizer = Tokenizer.from_gguf(str(path))
            wanted = max(self._wanted, 2 * CHUNK_TOKENS)
            n_bundled = wanted if bundled_only else wanted // 2
            bundled = spread_chunks(bundled_text(tokenizer, held_out=False), n_bundled)
            tokens = array("i", bundled)
            if not bundled_only:
                for part in own_text(path, wanted - len(bundled), self._n_threads, report):
                    tokens.extend(part)
            self.n_own = len(tokens) - len(bundled)
            self._tokens = tokens
            if kept is not None:
                new = kept.with_name(f"{kept.name}.new")
                new.write_text(json.dumps([self.n_own, *tokens]))
                os.replace(new, kept)
        return self._tokens
