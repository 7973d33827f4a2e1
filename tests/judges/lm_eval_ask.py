"""Runs lm-evaluation-harness through a server, on a small task of its own.

Run by lm_eval.sh, in an environment of its own: python lm_eval_ask.py http://127.0.0.1:8080 FOUND.json
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from urllib.request import urlopen

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

_SUBJECTS = [
    "The sea",
    "A dog in the rain",
    "Nobody",
    "Größe, 大きさ and 😀",
    "Once upon a time there",
]
_ENDS = [
    " was blue",
    " went home.\nThen",
    " is 42",
    "\n\n",
    " déjà vu",
    " waited for the night to come",
]


def main(url: str, found: str) -> None:
    """Writes contexts, continuations and what the harness found for them."""
    with urlopen(url + "/v1/models") as answer:
        name = json.load(answer)["data"][0]["id"]
    arguments = {
        "base_url": url + "/v1/completions",
        "model": name,
        "tokenizer_backend": "remote",
        "num_concurrent": 4,
        "max_retries": 1,
        "batch_size": 3,
        "max_length": 256,
    }
    model = get_model("local-completions")(**arguments)
    assert model.tokenizer_backend == "remote"
    draw = random.Random(1)
    rows = []
    for i in range(24):
        context = f"{draw.choice(_SUBJECTS)} {i}"
        choices = draw.sample(_ENDS, 3)
        rows.append({"context": context, "choices": choices, "answer": draw.randrange(3)})
    data = Path(found).with_suffix(".jsonl")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "ends",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    result = lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = []
    for sample in result["samples"]["ends"]:
        for request, response in zip(sample["arguments"], sample["resps"]):
            context, end = request[0], request[1]
            value, greedy = response[0]
            ids = [model.tok_encode(text) for text in (context, context + end)]
            samples.append({"ids": ids, "end": end, "logprob": value, "greedy": greedy})
    # The harness's other way: greedy texts.
    asks = [
        Instance(
            "generate_until", {}, (row["context"], {"until": [".", "\n"], "max_gen_toks": 12}), i
        )
        for i, row in enumerate(rows[:6])
    ]
    texts = [{"context": a.args[0], "text": t} for a, t in zip(asks, model.generate_until(asks))]
    accuracy = result["results"]["ends"]["acc,none"]
    Path(found).write_text(
        json.dumps(
            {
                "version": lm_eval.__version__,
                "accuracy": accuracy,
                "samples": samples,
                "texts": texts,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
