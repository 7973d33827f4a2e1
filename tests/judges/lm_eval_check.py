"""Compares what a harness found with hrun's own scores, exactly: python lm_eval_check.py MODEL.gguf FOUND.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hrun import Runtime


def main(path: str, found: str) -> None:
    """Fails at the first difference."""
    given = json.loads(Path(found).read_text())
    with Runtime(path) as rt:
        for sample in given["samples"]:
            context, whole = sample["ids"]
            scores = rt.score(whole, top_logprobs=1)[len(context) - 1 :]
            logprob = sum(s.logprob for s in scores)
            greedy = all(s.logprob == s.top[0][1] for s in scores)
            assert sample["logprob"] == logprob, (sample, logprob)
            assert sample["greedy"] == greedy, sample
        for asked in given["texts"]:
            own = rt.generate(asked["context"], max_tokens=12, temperature=0, stop=[".", "\n"])
            assert asked["text"] == own.text, (asked, own.text)
    n, texts = len(given["samples"]), len(given["texts"])
    print(
        f"lm-eval {given['version']}: {n} log-probabilities and {texts} texts are hrun's own, accuracy {given['accuracy']:.4f}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
