"""hrun-embed: vectors of texts, or how well documents answer a query.

  hrun-embed -m bge-small.gguf -p "one text"
  hrun-embed -m bge-small.gguf -f texts.txt --embd-output-format json
  hrun-embed -m bge-reranker.gguf --query "who wrote Emma?" -f documents.txt

Each line of -p, of the files of -f and of stdin is a text, unless --embd-separator says otherwise."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hrun
from hrun.cli.common import Parser, add_model_options, load, run
from hrun.cli.options import add_flags, whole_number

_FORMATS = ("", "array", "json", "json+", "raw")
_EPILOG = """\
Output formats: '' (default) a line for people, "embedding 0: ..."; array a JSON array of vectors; json as OpenAI's
/v1/embeddings answers; json+ the same with the cosine similarity of all pairs; raw the numbers of a vector per line.
With a model that scores texts, a line of a query, a tab and a document is a pair; --query compares each text with one query."""


def main(argv: Sequence[str] | None = None) -> int:
    return run("hrun-embed", _main, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-embed", description=__doc__, epilog=_EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add("-p", "--prompt", metavar="TEXT", help="the text, or several, a line each")
    add("-f", "--file", action="append", default=[], metavar="FILE", help="texts, a line each; - is stdin; several times")  # fmt: skip
    add("--query", metavar="TEXT", help="print how well each text answers it, by a reranker")
    add_flags(parser, "ctx_size", type=whole_number(0), default=0, help="tokens of a text at most (default: the model's own, at most 16384)")  # fmt: skip
    add_flags(parser, "pooling")
    add("--embd-normalize", type=whole_number(-1, 1000), default=2, metavar="N", help="-1: not at all, 0: largest magnitude 32760, 1: taxicab, 2: length 1 (default), N: p-norm")  # fmt: skip
    add("--embd-output-format", choices=_FORMATS, default="", metavar="FORMAT", help="array, json, json+ or raw")  # fmt: skip
    add("--embd-separator", default="\n", metavar="TEXT", help=r"between texts (default \n)")
    add("--cls-separator", default="\t", metavar="TEXT", help="between a query and a document (default a tab)")  # fmt: skip
    add_flags(parser, "version")
    return parser


def _main(options: argparse.Namespace) -> int:
    texts = _texts(options)
    if not texts:
        raise hrun.ArgumentError("no text: give -p TEXT, -f FILE or texts on stdin")
    with load(options, options.ctx_size or None) as runtime:
        if options.query is not None:
            rows = [[float(score)] for score in runtime.rerank(options.query, texts)]
            _print(options, rows, runtime, 0, scores=True)
            return 0
        pooling = options.pooling or runtime.pooling
        prompts = [_ids(runtime, text, pooling, options.cls_separator) for text in texts]
        from hrun import embeddings

        texts_ids, seconds = zip(*prompts)
        found = embeddings.embed(runtime, texts_ids, pooling, seconds)
        if pooling != "rank":
            found = [embeddings.normalized(row, options.embd_normalize) for row in found]
        vectors = [vector.tolist() for row in found for vector in row]
        n_tokens = sum(map(len, texts_ids))
        _print(options, vectors, runtime, n_tokens, scores=pooling == "rank")
    return 0


def _ids(runtime: hrun.Runtime, text: str, pooling: str, separator: str) -> tuple[list[int], int]:
    if pooling == "rank" and separator and separator in text:
        from hrun import embeddings

        query, _, document = text.partition(separator)
        return embeddings.pair_ids(runtime, query, document)
    return runtime.embedding_ids(text), -1


def _texts(options: argparse.Namespace) -> list[str]:
    """Returns the text of -p, then those of each -f; the text of stdin where there are neither."""
    sources = [] if options.prompt is None else [options.prompt]
    files = options.file or ([] if sources or sys.stdin is None or sys.stdin.isatty() else ["-"])
    for name in files:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        try:
            sources.append(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            where = "stdin" if name == "-" else name
            raise hrun.ArgumentError(f"{where}: not UTF-8 at byte {error.start}") from None
    separator = options.embd_separator
    parts = [part for s in sources for part in (s.split(separator) if separator else [s])]
    return [part for part in (p.rstrip("\r\n") for p in parts) if part]


def _print(
    options: argparse.Namespace,
    rows: list[list[float]],
    runtime: hrun.Runtime,
    n_tokens: int,
    scores: bool,
) -> None:
    form = options.embd_output_format
    if form == "array":
        print(json.dumps(rows))
    elif form in ("json", "json+"):
        data: list[dict[str, Any]] = [
            {"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        answer: dict[str, Any] = {"object": "list", "model": runtime.name, "data": data, "usage": usage}  # fmt: skip
        if form == "json+":
            are_unit = not scores and options.embd_normalize == 2
            answer["cosineSimilarity"] = _similarities(rows, are_unit)
        print(json.dumps(answer, indent=2))
    elif form == "raw":
        for row in rows:
            print(" ".join(f"{value:.7g}" for value in row))
    else:
        name = "rerank score" if scores else "embedding"
        for i, row in enumerate(rows):
            print(f"{name} {i}: {' '.join(f'{value:9.6f}' for value in row)}")


def _similarities(rows: list[list[float]], are_unit: bool) -> list[list[float]]:
    import numpy as np

    matrix = np.array(rows, np.float64)
    if not are_unit:
        sizes = np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix /= np.where(sizes > 0, sizes, 1)
    out: list[list[float]] = (matrix @ matrix.T).tolist()
    return out


if __name__ == "__main__":
    sys.exit(main())
