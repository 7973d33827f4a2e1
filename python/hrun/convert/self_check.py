"""A finished file beside its source, on text that no calibration saw.

The text is the held-out share of ``texts/`` and the source's greedy answers to the held-out
prompts.  The result is stored in the file: ``hrun.check.*``.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from pathlib import Path

from hrun.runtime import Runtime

from .auto_text import bundled_text, open_runtime, questions
from .compare import compare_models
from .moments import Report
from .text import chunks_of

# Mean KL divergence, in nats, above which a person sees the difference in answers.  SmolLM2-135M:
# 0.03 and 0.06 answer like the source, 0.2 makes more mistakes, 0.6 repeats itself.
VISIBLE = 0.15
_ANSWER_TOKENS = 48
_ROOM = 4  # contexts: all questions and answers fit, as they are short


@dataclass(frozen=True)
class Check:
    """mean_divergence: KL divergence in nats.  same_top: share of positions with the same likeliest
    token.  greedy_alike: share of the source's greedy answers up to the first other token."""

    n_tokens: int
    mean_divergence: float
    same_top: float
    greedy_alike: float

    def line(self) -> str:
        return (
            f"on {self.n_tokens} tokens of unseen text: mean KL divergence from the source "
            f"{self.mean_divergence:.4f}, same first choice {100 * self.same_top:.1f} %, "
            f"{100 * self.greedy_alike:.0f} % of greedy answers alike"
        )

    def exceeds(self, bound: float) -> bool:
        """Does a value exceed the bound?  NaN exceeds every bound."""
        return not self.mean_divergence <= bound


def greedy_answers(runtime: Runtime) -> list[tuple[list[int], list[int]]]:
    """Questions and answers, as tokens; -1 ends an answer that is complete.  Raises hrun.Error."""
    asked = questions(runtime, held_out=True)
    answers = runtime.generate(asked, max_tokens=_ANSWER_TOKENS, temperature=0.0, seed=0)
    return [
        (question, [*answer.tokens, *([-1] if answer.finish_reason == "stop" else [])])
        for question, answer in zip(asked, answers)
    ]


def alike(wanted: list[int], found: list[int]) -> int:
    """Counts the tokens that are the same before the first one that differs."""
    pairs = enumerate(zip(wanted, found))
    return next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))


def check(reference: Path, coded: Path, n_threads: int = 0, report: Report | None = None) -> Check:
    """Raises hrun.Error where one of the models cannot be run."""
    if report is not None:
        report(0, 1, "check: answers")
    with (
        open_runtime(reference, n_threads, _ROOM) as source,
        open_runtime(coded, n_threads, _ROOM) as file,
    ):
        wanted, found = greedy_answers(source), greedy_answers(file)
        tokenizer = source.tokenizer
        tokens = array("i", bundled_text(tokenizer, held_out=True))
        for question, answer in wanted:
            tokens.extend([*question, *(token for token in answer if token >= 0)])
        chunks = chunks_of(tokens, tokenizer.bos_id if tokenizer.adds_bos else None)
        differences = compare_models(source.model, file.model, chunks, report, "check")
    mean = float(differences.divergence.mean())
    return Check(
        differences.n_tokens,
        mean if math.isfinite(mean) else math.inf,
        differences.same_top,
        sum(alike(want, got) for (_, want), (_, got) in zip(wanted, found))
        / max(1, sum(len(want) for _, want in wanted)),
    )
