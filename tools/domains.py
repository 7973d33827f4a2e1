"""What calibration on one kind of text costs on another: KL divergence from the source on prose and on chat.

    python tools/domains.py SOURCE.gguf PROSE.txt JUDGE.txt --type rtq3 [--preset normal] [--calibrate-tokens 65536]
    python tools/domains.py SOURCE.gguf PROSE.txt JUDGE.txt --files auto.gguf prose.gguf chat.gguf

Converts SOURCE with `--calibrate auto`, with PROSE and with nothing but the model's own answers to the prompts of
`--calibrate auto`, and compares the three files with SOURCE on JUDGE, prose that no calibration saw, and on what SOURCE answers, at
temperature 1, to tools/questions.txt, which are none of those prompts.  The last column is the larger of both divergences of a row, each
divided by that of the file that was calibrated on this domain alone.  With --writer the text is written by a copy in few bits, as where
the model takes more memory than its conversion.  Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

from answers import BATCH, QUESTIONS

KINDS = ("auto", "prose", "chat")


def chat_tokens(source: Path, n_tokens: int) -> array[int]:
    """The questions with answers of at most n_tokens, one after the other."""
    from hrun.convert.auto_text import open_runtime

    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    out = array("i")
    with open_runtime(source, 0, BATCH) as runtime:
        for first in range(0, len(questions), BATCH):
            asked = [
                runtime.chat_tokens([{"role": "user", "content": text}])
                for text in questions[first : first + BATCH]
            ]
            found = runtime.generate(asked, max_tokens=n_tokens, temperature=1.0, seed=17)
            end = [i for i in (runtime.tokenizer.end_of_turn_id,) if i is not None]
            for question, answer in zip(asked, found):
                out.extend([*question, *answer.tokens])
                out.extend(end if answer.finish_reason == "stop" else [])
    return out


def divergences(source: Path, model: Path, texts: Sequence[Sequence[int]]) -> list[float]:
    from hrun.convert.compare import TextReader, read_and_compare
    from hrun.convert.parts import PartFile
    from hrun.convert.read_gguf import read_gguf
    from hrun.convert.text import chunks_of
    from hrun.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(str(source))
    first = tokenizer.bos_id if tokenizer.adds_bos else None
    out = []
    for text in texts:
        chunks = chunks_of(text, first)
        with tempfile.TemporaryDirectory() as name:
            reference = TextReader(PartFile(read_gguf(source)), chunks, Path(name))
            file = PartFile(read_gguf(model))
            found = read_and_compare(reference, file, chunks, Path(name))
        out.append(float(found.divergence.mean()))
    return out


def convert(source: Path, output: Path, calibration: str, prose: Path, flags: list[str]) -> None:
    """Chat alone is `auto` without its passages."""
    from hrun.cli.convert import main as hrun_convert
    from hrun.convert import auto_text

    bundled = auto_text.bundled_text
    if calibration == "chat":
        auto_text.bundled_text = lambda tokenizer, held_out: array("i")
    try:
        text = str(prose) if calibration == "prose" else "auto"
        code = hrun_convert(
            [str(source), "-o", str(output), "--calibrate", text, "--no-check", *flags]
        )
    finally:
        auto_text.bundled_text = bundled
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("prose", type=Path)
    parser.add_argument("judge", type=Path)
    parser.add_argument("--type", default="rtq3")
    parser.add_argument("--preset", default="normal")
    parser.add_argument("--calibrate-tokens", default="65536")
    parser.add_argument(
        "--writer", help="type of a copy of SOURCE that writes the model's own text"
    )
    parser.add_argument("--files", type=Path, nargs=3, help="calibrated on both, prose, chat")
    parser.add_argument("--tokens", type=int, default=96, help="of an answer, at most")
    parser.add_argument("--chunks", type=int, default=24, help="of 512 tokens of prose")
    args = parser.parse_args()

    from hrun.convert import quick_copy
    from hrun.convert.text import CHUNK_TOKENS
    from hrun.tokenizer import Tokenizer

    if args.writer:
        quick_copy.writer_type = lambda source, float_bytes, room: args.writer

    with tempfile.TemporaryDirectory() as folder:
        files = args.files
        if files is None:
            files = [Path(folder) / f"{kind}.gguf" for kind in KINDS]
            flags = ["--type", args.type, "--preset", args.preset]
            flags += ["--calibrate-tokens", args.calibrate_tokens]
            for kind, file in zip(KINDS, files):
                convert(args.source, file, kind, args.prose, flags)
        tokenizer = Tokenizer.from_gguf(str(args.source))
        prose = tokenizer.encode(args.judge.read_text(encoding="utf-8"), add_special=False)
        texts = [prose[: args.chunks * CHUNK_TOKENS], chat_tokens(args.source, args.tokens)]
        found = [divergences(args.source, file, texts) for file in files]
        alone = [found[KINDS.index(kind)][i] for i, kind in enumerate(("prose", "chat"))]
        print("| calibrated on | prose | chat | against its own |\n|---|--:|--:|--:|")
        for kind, row in zip(KINDS, found):
            worst = max(value / max(own, 1e-9) for value, own in zip(row, alone))
            print(f"| {kind} | {row[0]:.4f} | {row[1]:.4f} | {worst:.2f} |")


if __name__ == "__main__":
    main()
