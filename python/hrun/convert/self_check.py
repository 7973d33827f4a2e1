"""A finished file beside its source, on text that no calibration saw.

The text is the held-out share of ``texts/`` and the file's own greedy answers to the held-out
prompts.  Both models read it a part at a time, so memory holds a layer, or the two heads.  The
source need not answer itself: up to the first token that it would not have chosen, its answer is the
file's.  The result is stored in the file: ``hrun.check.*``.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

from hrun.outputs import scratch_folder
from hrun.runtime import Runtime
from hrun.tokenizer import Tokenizer

from .auto_text import bundled_text, open_runtime, questions
from .calibrate import part_file
from .check_result import Check
from .compare import TextReader, read_and_compare
from .moments import Report
from .parts import PartFile
from .read_gguf import read_gguf
from .source import Source
from .text import chunks_of

_ANSWER_TOKENS = 48
_ROOM = 4  # contexts: all questions and answers fit, as they are short


def greedy_answers(runtime: Runtime) -> list[tuple[list[int], list[int]]]:
    """Questions and answers, as tokens; -1 ends an answer that is complete.  Raises hrun.Error."""
    asked = questions(runtime, held_out=True)
    answers = runtime.generate(asked, max_tokens=_ANSWER_TOKENS, temperature=0.0, seed=0)
    return [
        (question, [*answer.tokens, *([-1] if answer.finish_reason == "stop" else [])])
        for question, answer in zip(asked, answers)
    ]


def alike(wanted: Sequence[int], found: Sequence[int]) -> int:
    """Counts the tokens that are the same before the first one that differs."""
    pairs = enumerate(zip(wanted, found))
    return next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(found)))


def check(
    source: Source,
    coded: Path,
    folder: Path,
    room: int,
    n_threads: int = 0,
    report: Report | None = None,
) -> Check:
    """Compares the file with its source.

    folder: where scratch lies.  room: the file answers if it has at most so many bytes, as it is
    run whole for that.  Raises hrun.Error where one of the models cannot be run, OSError.
    """
    tokenizer = Tokenizer.from_gguf(str(coded))
    asked: list[tuple[list[int], list[int]]] = []
    if coded.stat().st_size <= room:
        if report is not None:
            report(0, 1, "check: answers")
        with open_runtime(coded, n_threads, _ROOM) as runtime:
            asked = greedy_answers(runtime)
    tokens = array("i", bundled_text(tokenizer, held_out=True))
    texts: list[list[int]] = []
    for question, answer in asked:
        texts.append([*question, *(token for token in answer if token >= 0)])
        tokens.extend(texts[-1])
    chunks = chunks_of(tokens, tokenizer.bos_id if tokenizer.adds_bos else None)
    with scratch_folder(folder) as scratch:
        whole = part_file(source, scratch, n_threads)
        reference = TextReader(whole, [*chunks, *texts], scratch, report, "check: source")
        file = PartFile(read_gguf(coded), n_threads=n_threads)
        differences = read_and_compare(reference, file, chunks, scratch, report, "check: file")
        n_same = 0
        for number, (question, answer) in enumerate(asked, len(chunks)):
            chosen: list[int] = []
            for _, base in reference.logits(
                number, len(question) - 1, len(question) - 1 + len(answer)
            ):
                chosen += base.argmax(axis=1).tolist()
            n_same += alike(
                answer, [-1 if token in tokenizer.end_ids else token for token in chosen]
            )
    mean = float(differences.divergence.mean())
    n_answered = sum(len(answer) for _, answer in asked)
    return Check(
        differences.n_tokens,
        mean if math.isfinite(mean) else math.inf,
        differences.same_top,
        n_same / n_answered if n_answered else math.nan,
    )
