"""How many answers of a coded model are those of its source: greedy answers to tools/questions.txt through the chat template.

    python tools/answers.py SOURCE.gguf MODEL.gguf... [--tokens 32]

The source's own answers are the reference; an answer counts as identical if all of its tokens are.  "Alike" is the share of the
source's tokens before the first that differs.  Answers do not depend on threads or load, so the table can be made again.  Prints
Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

QUESTIONS = Path(__file__).with_name("questions.txt")
BATCH = 20


def answers(model: Path, questions: list[str], n_tokens: int, threads: int) -> list[list[int]]:
    """Token ids of each answer; -1 ends one that is complete."""
    from hrun.convert.auto_text import open_runtime

    out: list[list[int]] = []
    with open_runtime(model, threads, BATCH) as runtime:
        asked = [runtime.chat_tokens([{"role": "user", "content": text}]) for text in questions]
        for first in range(0, len(asked), BATCH):
            found = runtime.generate(
                asked[first : first + BATCH], max_tokens=n_tokens, temperature=0.0, seed=0
            )
            out += [[*a.tokens, *([-1] if a.finish_reason == "stop" else [])] for a in found]
    return out


def main() -> None:
    from hrun.convert.self_check import alike

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("-t", "--threads", type=int, default=0)
    args = parser.parse_args()
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    wanted = answers(args.source, questions, args.tokens, args.threads)
    print(f"| file | size | identical of {len(questions)} | tokens alike |\n|---|--:|--:|--:|")
    for model in args.models:
        found = answers(model, questions, args.tokens, args.threads)
        same = sum(a == b for a, b in zip(wanted, found))
        share = sum(alike(a, b) for a, b in zip(wanted, found)) / sum(map(len, wanted))
        print(
            f"| {model.name} | {model.stat().st_size / 1e6:.1f} MB | {100 * same / len(questions):.1f} % | {100 * share:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
